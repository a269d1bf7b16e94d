// Forks a state, generates in all branches at once, joins them, and has the model choose, through gRPC stubs.
//
//	go run . [HOST:PORT]
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"forks/rpc"
)

func main() {
	address := "127.0.0.1:8001"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	if err := run(address); err != nil {
		log.Fatal(err)
	}
}

func run(address string) error {
	// The newer WithTransportCredentials(insecure.NewCredentials()) is not there yet in the gRPC of every system.
	connection, err := grpc.Dial(address, grpc.WithInsecure())
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	session, err := Open(ctx, connection)
	if err != nil {
		return err
	}

	// The client names the states, so nothing below waits for the fork before it uses what the fork makes.
	begun := session.Send(extend(0, "Once upon a time there was a lighthouse whose keeper had a daughter."))
	branches := []uint64{1, 2, 3}
	forked := session.Send(&rpc.ProgramRequest{Action: &rpc.ProgramRequest_Fork{
		Fork: &rpc.ForkState{State: 0, Children: branches},
	}})
	var calls []uint64
	for i, beginning := range []string{" In spring", " In summer", " In winter"} {
		session.Send(extend(branches[i], beginning))
		calls = append(calls, session.Send(generate(branches[i], 12)))
	}
	_, answer, err := session.Wait(begun)
	if err != nil {
		return err
	}
	if _, _, err := session.Wait(forked); err != nil {
		return err
	}
	fmt.Printf("fork: %d branches of %d tokens\n", len(branches), answer.GetChanged().Length)
	for i, call := range calls {
		text, answer, err := session.Wait(call)
		if err != nil {
			return err
		}
		fmt.Printf("branch %d: %d tokens: %q\n", branches[i], answer.GetChanged().Length, text)
	}

	joined := session.Send(&rpc.ProgramRequest{Action: &rpc.ProgramRequest_Join{
		Join: &rpc.JoinStates{State: 0, Children: branches},
	}})
	if _, answer, err = session.Wait(joined); err != nil {
		return err
	}
	fmt.Printf("join: %d tokens\n", answer.GetChanged().Length)
	if err := choose(session, " The end.", " She sailed away."); err != nil {
		return err
	}
	return session.Close()
}

// choose adds to state 0 the text that the model would rather go on with: by the mean log probability of its tokens.
func choose(session *Session, choices ...string) error {
	call := session.Send(&rpc.ProgramRequest{Action: &rpc.ProgramRequest_Select{
		Select: &rpc.SelectState{State: 0, Choices: choices},
	}})
	_, answer, err := session.Wait(call)
	if err != nil {
		return err
	}
	selected := answer.GetSelected()
	best, bestMean, start := 0, float32(0), uint32(0)
	for i, count := range selected.Counts {
		sum := float32(0)
		for _, logprob := range selected.Logprobs[start : start+count] {
			sum += logprob
		}
		start += count
		if mean := sum / float32(count); i == 0 || mean > bestMean {
			best, bestMean = i, mean
		}
	}
	if _, answer, err = session.Wait(session.Send(extend(0, choices[best]))); err != nil {
		return err
	}
	fmt.Printf("select: %q with %.2f, %d tokens\n", choices[best], bestMean, answer.GetChanged().Length)
	return nil
}

func extend(state uint64, text string) *rpc.ProgramRequest {
	return &rpc.ProgramRequest{Action: &rpc.ProgramRequest_Extend{
		Extend: &rpc.ExtendState{State: state, Content: &rpc.ExtendState_Text{Text: text}},
	}}
}

func generate(state uint64, maxTokens uint32) *rpc.ProgramRequest {
	return &rpc.ProgramRequest{Action: &rpc.ProgramRequest_Generate{Generate: &rpc.GenerateState{
		State:   state,
		Whole:   true,
		Options: &rpc.GenerateRequest{MaxTokens: &maxTokens, Temperature: proto.Float32(0)},
	}}}
}
