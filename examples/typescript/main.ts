// Forks a state, generates in all branches at once, joins them, and has the model choose, through gRPC stubs.
//
//   npm start [HOST:PORT]
import * as path from "node:path";

import type { ProgramRequest } from "./rpc/bough/rpc/v1/ProgramRequest";
import { type Result, Session } from "./session";

type Action = Omit<ProgramRequest, "call">;

const protos = process.env.PROTOS ?? path.join(__dirname, "../../../protos");

const extend = (state: number, text: string): Action => ({ extend: { state, text } });
const generate = (state: number, max_tokens: number): Action => ({
  generate: { state, whole: true, options: { max_tokens, temperature: 0 } },
});
const length = (result: Result): number => result.answer.changed?.length ?? 0;

/** Adds to state 0 the text that the model would rather go on with: by the mean log probability of its tokens. */
async function choose(session: Session, choices: string[]): Promise<void> {
  const { selected } = (await session.call({ select: { state: 0, choices } })).answer;
  if (!selected) throw new Error("select: no scores");
  let start = 0;
  const means = selected.counts.map((count) => {
    const logprobs = selected.logprobs.slice(start, (start += count));
    return logprobs.reduce((sum, logprob) => sum + logprob, 0) / count;
  });
  const best = means.indexOf(Math.max(...means));
  const tokens = length(await session.call(extend(0, choices[best])));
  console.log(`select: ${JSON.stringify(choices[best])} with ${means[best].toFixed(2)}, ${tokens} tokens`);
}

async function main(): Promise<void> {
  const session = await Session.open(process.argv[2] ?? "127.0.0.1:8001", protos);
  // The client names the states, so nothing below waits for the fork before it uses what the fork makes.
  const children = [1, 2, 3];
  const beginnings = [" In spring", " In summer", " In winter"];
  const begun = session.call(extend(0, "Once upon a time there was a lighthouse whose keeper had a daughter."));
  const forked = session.call({ fork: { state: 0, children } });
  const extended = children.map((child, i) => session.call(extend(child, beginnings[i])));
  const calls = children.map((child) => session.call(generate(child, 12)));
  const [root] = await Promise.all([begun, forked, ...extended]);
  console.log(`fork: ${children.length} branches of ${length(root)} tokens`);
  for (const [i, result] of (await Promise.all(calls)).entries()) {
    console.log(`branch ${children[i]}: ${length(result)} tokens: ${JSON.stringify(result.text)}`);
  }
  console.log(`join: ${length(await session.call({ join: { state: 0, children } }))} tokens`);
  await choose(session, [" The end.", " She sailed away."]);
  await session.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
