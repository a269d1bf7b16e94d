package main

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"google.golang.org/grpc"

	"forks/rpc"
)

// Pieces of 128 continuations, which is the most there can be, and the end.
const maxAnswers = 129

// Session is a program that is open. Calls are sent without waiting for the answers of earlier ones; each method that
// waits takes the number of a call, and each call is waited for once.
type Session struct {
	stream rpc.Programs_RunClient

	mutex   sync.Mutex
	last    uint64
	answers map[uint64]chan *rpc.ProgramResponse
	broken  error
}

// Open begins a program on a connection. It lives until the context ends.
func Open(ctx context.Context, connection grpc.ClientConnInterface) (*Session, error) {
	stream, err := rpc.NewProgramsClient(connection).Run(ctx)
	if err != nil {
		return nil, err
	}
	session := &Session{stream: stream, answers: map[uint64]chan *rpc.ProgramResponse{}}
	go session.read()
	open := session.Send(&rpc.ProgramRequest{Action: &rpc.ProgramRequest_Open{Open: &rpc.OpenProgram{}}})
	_, _, err = session.Wait(open)
	return session, err
}

// Send sends a call and returns its number; not to be called by several goroutines at once.
func (session *Session) Send(request *rpc.ProgramRequest) uint64 {
	session.mutex.Lock()
	session.last++
	request.Call = session.last
	// Room for all answers of a call that generates whole, so that nobody need wait for it in time.
	answers := make(chan *rpc.ProgramResponse, maxAnswers)
	session.answers[request.Call] = answers
	if session.broken != nil {
		close(answers)
	}
	session.mutex.Unlock()
	// What Send fails with, Recv fails with too, and says why.
	_ = session.stream.Send(request)
	return request.Call
}

// Wait returns the text that a call has produced, and its last answer.
func (session *Session) Wait(call uint64) (string, *rpc.ProgramResponse, error) {
	session.mutex.Lock()
	answers := session.answers[call]
	session.mutex.Unlock()
	defer session.forget(call)
	var text strings.Builder
	for answer := range answers {
		if piece := answer.GetPiece(); piece != nil {
			text.WriteString(piece.Text)
			continue
		}
		if failed := answer.GetFailed(); failed != nil {
			return "", nil, fmt.Errorf("call %d: %s (code %d)", call, failed.Message, failed.Code)
		}
		return text.String(), answer, nil
	}
	return "", nil, fmt.Errorf("call %d: the stream has ended: %w", call, session.broken)
}

func (session *Session) forget(call uint64) {
	session.mutex.Lock()
	defer session.mutex.Unlock()
	delete(session.answers, call)
}

// Close releases all states.
func (session *Session) Close() error {
	closing := session.Send(&rpc.ProgramRequest{Action: &rpc.ProgramRequest_Close{Close: &rpc.CloseProgram{}}})
	_, _, err := session.Wait(closing)
	return err
}

func (session *Session) read() {
	for {
		answer, err := session.stream.Recv()
		session.mutex.Lock()
		if err != nil {
			session.broken = err
			for _, answers := range session.answers {
				close(answers)
			}
			session.mutex.Unlock()
			return
		}
		answers := session.answers[answer.Call]
		session.mutex.Unlock()
		answers <- answer
	}
}
