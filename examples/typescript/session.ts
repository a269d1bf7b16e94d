import * as grpc from "@grpc/grpc-js";
import * as loader from "@grpc/proto-loader";

import type { ProgramRequest } from "./rpc/bough/rpc/v1/ProgramRequest";
import type { ProgramResponse__Output } from "./rpc/bough/rpc/v1/ProgramResponse";
import type { ProtoGrpcType } from "./rpc/program";

/** What a call has produced, and its last answer. */
export interface Result {
  text: string;
  answer: ProgramResponse__Output;
}

interface Pending {
  text: string;
  resolve(result: Result): void;
  reject(error: Error): void;
}

/** A program that is open. Calls are sent without waiting for the answers of earlier ones; states have the client's numbers. */
export class Session {
  private readonly client;
  private readonly stream;
  private readonly pending = new Map<number, Pending>();
  private last = 0;
  private broken: Error | undefined;

  private constructor(address: string, protos: string) {
    // The same options that the types were generated with.
    const definition = loader.loadSync("bough/rpc/v1/program.proto", {
      keepCase: true,
      longs: Number,
      enums: String,
      oneofs: true,
      defaults: true,
      includeDirs: [protos],
    });
    const { bough } = grpc.loadPackageDefinition(definition) as unknown as ProtoGrpcType;
    this.client = new bough.rpc.v1.Programs(address, grpc.credentials.createInsecure());
    this.stream = this.client.Run({ deadline: Date.now() + 60_000 });
    this.stream.on("data", (answer: ProgramResponse__Output) => this.take(answer));
    this.stream.on("error", (error: Error) => this.fail(error));
    this.stream.on("end", () => this.fail(new Error("the stream has ended")));
  }

  /** Begins a program on the server at HOST:PORT; `protos` is the folder of its contracts. */
  static async open(address: string, protos: string): Promise<Session> {
    const session = new Session(address, protos);
    await session.call({ open: {} });
    return session;
  }

  /** Sends a call at once; the promise is kept by its last answer. */
  call(action: Omit<ProgramRequest, "call">): Promise<Result> {
    return new Promise((resolve, reject) => {
      if (this.broken !== undefined) return reject(this.broken);
      this.last += 1;
      this.pending.set(this.last, { text: "", resolve, reject });
      this.stream.write({ call: this.last, ...action });
    });
  }

  /** Releases all states. */
  async close(): Promise<void> {
    await this.call({ close: {} });
    this.stream.end();
    this.client.close();
  }

  private take(answer: ProgramResponse__Output): void {
    const pending = this.pending.get(answer.call);
    if (pending === undefined) return;
    if (answer.piece) {
      pending.text += answer.piece.text;
      return;
    }
    this.pending.delete(answer.call);
    if (answer.failed) pending.reject(new Error(`${answer.failed.message} (code ${answer.failed.code})`));
    else pending.resolve({ text: pending.text, answer });
  }

  private fail(error: Error): void {
    this.broken ??= error;
    for (const pending of this.pending.values()) pending.reject(this.broken);
    this.pending.clear();
  }
}
