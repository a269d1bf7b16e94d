"""Tokenizer, grammar service and detokenizer of a gateway under test: real gRPC servers with scripted answers.

The scheduler's part for programs is in `fake_scheduler`.

`Backend` stands for scheduler and executor: it knows each request and how much of its output there is, so that a
detokenizer may die and another go on. A token is one character of the output; its id is the character's code point.
"""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from bough.common.codec import decode_identity, decode_submission, encode_identity
from bough.common.errors import InvalidRequestError, NotFoundError, code_number
from bough.common.ids import new_epoch
from bough.common.model import ModelIdentity, check_same_model, read_model_files
from bough.common.requests import Submission
from bough.common.rpc.server import RpcServer
from bough.common.rpc.streams import StreamWriter, pump
from bough.common.sampling import FinishReason
from bough.rpc.v1 import (
    common_pb2,
    detokenizer_pb2,
    detokenizer_pb2_grpc,
    grammar_pb2,
    grammar_pb2_grpc,
    scheduler_pb2_grpc,
    telemetry_pb2,
    telemetry_pb2_grpc,
    tokenizer_pb2,
    tokenizer_pb2_grpc,
)
from tests.gateway.fake_scheduler import FakeScheduler

EOS = chr(0)
VOCAB_SIZE = 70_000
MAX_CONTEXT = 256
Context = grpc.aio.ServicerContext[Any, Any]


@dataclass
class Run:
    """One request as the scheduler would know it."""

    submission: Submission
    sibling: int
    output: str
    finish: FinishReason
    stop_string: str = ""
    hidden: str = ""
    """Tokens at the end that are not in the text."""
    produced: int = 0
    cancelled: bool = False
    released: bool = False

    @property
    def ended(self) -> bool:
        return self.produced == len(self.output)


@dataclass
class Backend:
    """All requests, and the gate that lets their tokens out."""

    reply: Callable[[str, int], str] = lambda prompt, sibling: f"echo of {prompt}"
    """Output for (prompt text, sibling)."""
    automatic: bool = True
    """Produce by itself, one token of each request at a time; else by `advance`."""
    rejection: tuple[int, str, int] | None = None
    """(status number, message, retry after ms) for every new request."""
    runs: dict[int, Run] = field(default_factory=dict)
    submissions: list[Submission] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    listeners: set[Callable[[], None]] = field(default_factory=set)
    at_once: int = 0
    """Tokens of a request that are there from its beginning."""
    ignore_submits: int = 0
    """So many submissions are lost on their way."""
    has_eos: bool = False
    """Outputs that end by themselves end with a token without text."""
    scheduler: FakeScheduler | None = None
    """Knows the states that submissions go on from."""

    def submit(self, submission: Submission) -> None:
        self.submissions.append(submission)
        prompt = "".join(map(chr, (*self._base_of(submission), *submission.prompt)))
        for sibling, request in enumerate(submission.requests):
            if request not in self.runs:
                output = "".join(map(chr, submission.sampling.forced_ids)) or self.reply(prompt, sibling)
                run = self.runs[request] = _make_run(submission, sibling, output, EOS if self.has_eos else "")
                run.produced = min(self.at_once, len(run.output))
        self.notify()

    def refusal_of(self, submission: Submission) -> tuple[int, str, int] | None:
        """Why a submission is not accepted; None: it is."""
        if submission.base is None or self.scheduler is None:
            return self.rejection
        try:
            self._base_of(submission)
        except NotFoundError as error:
            return code_number(error), str(error), 0
        return self.rejection

    def _base_of(self, submission: Submission) -> tuple[int, ...]:
        """Tokens of the state that a submission goes on from."""
        if submission.base is None:
            return ()
        assert self.scheduler is not None
        tokens = self.scheduler.tokens_of(submission.base)
        assert submission.base_tail == tokens[-16:]
        return tokens

    def advance(self, num_tokens: int = 1) -> None:
        for run in self.runs.values():
            run.produced = min(run.produced + num_tokens, len(run.output))
        self.notify()

    async def produce(self) -> None:
        while True:
            async with self.changed:
                await self.changed.wait_for(self._has_work)
            self.advance()
            await asyncio.sleep(0)

    def _has_work(self) -> bool:
        return self.automatic and any(not run.ended for run in self.runs.values())

    def notify(self) -> None:
        for wake in self.listeners:
            wake()
        task = asyncio.ensure_future(self._notify())
        _TASKS.add(task)
        task.add_done_callback(_TASKS.discard)

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until something about the requests holds."""
        async with asyncio.timeout(20), self.changed:
            await self.changed.wait_for(condition)


_TASKS: set[asyncio.Future[None]] = set()


def _make_run(submission: Submission, sibling: int, output: str, eos: str) -> Run:
    finish, stop_string = FinishReason.STOP, ""
    if submission.sampling.forced_ids:
        return Run(submission, sibling, output, FinishReason.LENGTH)
    ends = [(output.index(stop), stop) for stop in submission.text.stop if stop in output]
    if ends:
        end, stop_string = min(ends)
        shown = end + len(stop_string) if submission.text.include_stop else end
        hidden = output[shown : end + len(stop_string)]
        output, finish = output[:shown], FinishReason.STOP_STRING
        return Run(submission, sibling, output, finish, stop_string, hidden=hidden)
    output += eos
    if len(output) > submission.sampling.max_tokens:
        output, finish, stop_string = output[: submission.sampling.max_tokens], FinishReason.LENGTH, ""
    return Run(submission, sibling, output, finish, stop_string)


class FakeDetokenizer(detokenizer_pb2_grpc.DetokenizerServiceServicer):
    """One copy, over the common backend."""

    def __init__(self, backend: Backend, identity: ModelIdentity) -> None:
        self.backend = backend
        self.identity = identity
        self.resumed: list[tuple[int, int, int]] = []
        self.num_submits = 0
        self.overlap = 0
        """Sends so many characters before each resume point again."""

    async def Decode(self, request: detokenizer_pb2.DecodeRequest, context: Context) -> detokenizer_pb2.DecodeResponse:
        tokens, texts = iter(request.tokens), []
        for count in request.counts:
            texts.append("".join(chr(next(tokens)) for _ in range(count)).replace(EOS, ""))
        return detokenizer_pb2.DecodeResponse(texts=texts)

    async def Describe(
        self, request: detokenizer_pb2.DetokenizerDescribeRequest, context: Context
    ) -> detokenizer_pb2.DetokenizerDescribeResponse:
        return detokenizer_pb2.DetokenizerDescribeResponse(identity=encode_identity(self.identity), epoch=new_epoch())

    async def Stream(  # type: ignore[override]
        self, request_iterator: AsyncIterator[detokenizer_pb2.DetokenizerRequest], context: Context
    ) -> None:
        stream = _DetokenizerStream(self)
        writer: StreamWriter[detokenizer_pb2.DetokenizerResponse] = StreamWriter(stream.collect, context.write)
        hello = await anext(aiter(request_iterator))
        writer.accept(hello.seq)
        check_same_model(self.identity, decode_identity(hello.attach.identity), peer="gateway")
        attached = common_pb2.Attached(epoch=1, identity=encode_identity(self.identity))
        await writer.send(detokenizer_pb2.DetokenizerResponse(attached=attached))
        stream.on_message(hello)
        self.backend.listeners.add(writer.wake)

        def on_message(message: detokenizer_pb2.DetokenizerRequest) -> None:
            stream.on_message(message)
            writer.wake()

        try:
            await pump(request_iterator, writer, on_message)
        finally:
            self.backend.listeners.discard(writer.wake)


class _DetokenizerStream:
    def __init__(self, owner: FakeDetokenizer) -> None:
        self._owner = owner
        self._backend = owner.backend
        self._cursors: dict[int, int] = {}
        self._started: set[int] = set()
        self._errors: list[common_pb2.RequestError] = []

    def on_message(self, message: detokenizer_pb2.DetokenizerRequest) -> None:
        backend = self._backend
        for submit in message.submits:
            self._owner.num_submits += 1
            if backend.ignore_submits:
                backend.ignore_submits -= 1
                continue
            self._submit(decode_submission(submit))
        for resume in message.resumes:
            self._owner.resumed.append((resume.request, resume.position, resume.text_offset))
            if resume.request in backend.runs:
                self._cursors[resume.request] = max(0, resume.position - self._owner.overlap)
            else:
                self._errors.append(common_pb2.RequestError(request=resume.request, code=5, message="unknown"))
        for request in message.cancels:
            if request in backend.runs:
                backend.runs[request].cancelled = True
            self._cursors.pop(request, None)
        for request in message.released:
            backend.runs[request].released = True
            self._cursors.pop(request, None)
        backend.notify()

    def _submit(self, submission: Submission) -> None:
        backend = self._backend
        refusal = backend.refusal_of(submission)
        if refusal is None:
            backend.submit(submission)
            self._cursors.update((request, 0) for request in submission.requests)
            return
        code, text, retry_after_ms = refusal
        for request in submission.requests:
            self._errors.append(
                common_pb2.RequestError(request=request, code=code, message=text, retry_after_ms=retry_after_ms)
            )

    def collect(self) -> detokenizer_pb2.DetokenizerResponse | None:
        message = detokenizer_pb2.DetokenizerResponse(errors=self._errors)
        self._errors = []
        columns, tokens = message.text, message.text.tokens
        for request, start in list(self._cursors.items()):
            run = self._backend.runs[request]
            if run.cancelled or (start == run.produced and not run.ended):
                continue
            text = run.output[start : run.produced]
            hidden = run.hidden if run.ended else ""
            if request not in self._started:
                self._started.add(request)
                message.started.requests.append(request)
                message.started.cached_tokens.append(len(run.submission.prompt) // 2)
            if run.submission.sampling.top_logprobs is not None:
                _add_logprobs(columns, text, start, run.submission.sampling.top_logprobs)
            tokens.requests.append(request)
            tokens.positions.append(start)
            tokens.counts.append(len(text) + len(hidden))
            tokens.tokens.extend(map(ord, text + hidden))
            tokens.finish.append(int(run.finish) if run.ended else 0)
            columns.offsets.append(start)
            columns.lengths.append(len(text.replace(EOS, "")))
            columns.text += text.replace(EOS, "")
            if run.ended:
                if run.finish is FinishReason.STOP_STRING:
                    columns.stop_strings.append(run.stop_string)
                del self._cursors[request]
            else:
                self._cursors[request] = run.produced
        return message if tokens.requests or message.errors else None


def _add_logprobs(columns: detokenizer_pb2.TextColumns, text: str, start: int, top: int) -> None:
    logprobs = columns.tokens.logprobs
    for i, character in enumerate(text):
        logprobs.indices.append(len(columns.tokens.tokens) + i)
        logprobs.logprobs.append(-0.25 * (start + i + 1))
        logprobs.ranks.append(1)
        logprobs.top_counts.append(top)
        columns.logprob_bytes.append(character.encode())
        for alternative in range(top):
            logprobs.top_ids.append(ord(character) + alternative)
            logprobs.top_logprobs.append(-0.25 * (start + i + 1) if alternative == 0 else -math.inf)
            columns.top_bytes.append(chr(ord(character) + alternative).encode())


@dataclass
class FakeTokenizer(tokenizer_pb2_grpc.TokenizerServiceServicer):
    """A token a character; a chat is its messages' contents, joined."""

    identity: ModelIdentity
    chats: list[tokenizer_pb2.EncodeChatRequest] = field(default_factory=list)
    traceparents: list[str] = field(default_factory=list)
    chat_template: str = ""
    tail: str = ""
    """Ends each rendered chat."""
    bos: str = ""
    """Begins each text that special tokens are added to."""
    render: Callable[[tokenizer_pb2.EncodeChatRequest], str] | None = None
    """The chat template; None: the contents, joined."""
    num_calls: int = 0

    async def Encode(self, request: tokenizer_pb2.EncodeRequest, context: Context) -> tokenizer_pb2.EncodeResponse:
        self._note(context)
        self.num_calls += 1
        bos = self.bos if request.add_special_tokens else ""
        ids = [tokenizer_pb2.TokenIds(ids=map(ord, bos + text)) for text in request.texts]
        return tokenizer_pb2.EncodeResponse(encodings=ids)

    async def EncodeChat(
        self, request: tokenizer_pb2.EncodeChatRequest, context: Context
    ) -> tokenizer_pb2.EncodeChatResponse:
        self._note(context)
        self.chats.append(request)
        text, replaces = _added(request, self.render or self._joined)
        return tokenizer_pb2.EncodeChatResponse(ids=map(ord, text), text=text, replaces=replaces)

    async def Describe(
        self, request: tokenizer_pb2.TokenizerDescribeRequest, context: Context
    ) -> tokenizer_pb2.TokenizerDescribeResponse:
        return tokenizer_pb2.TokenizerDescribeResponse(
            identity=encode_identity(self.identity), epoch=1, chat_template=self.chat_template
        )

    def _joined(self, request: tokenizer_pb2.EncodeChatRequest) -> str:
        text = "|".join(message.get("content") or "" for message in json.loads(request.messages_json))
        if "raise" in text:
            raise InvalidRequestError("the chat template raised: no system message, please")
        return text + self.tail

    def _note(self, context: Context) -> None:
        metadata = dict(context.invocation_metadata() or ())
        self.traceparents.append(str(metadata.get("traceparent", "")))


def _added(
    request: tokenizer_pb2.EncodeChatRequest, render: Callable[[tokenizer_pb2.EncodeChatRequest], str]
) -> tuple[str, bool]:
    """The chat, or what it adds to the known messages; True where it takes their place."""
    known = tokenizer_pb2.EncodeChatRequest(
        messages_json=json.dumps(json.loads(request.messages_json)[: request.num_known]),
        continue_final_message=request.known_is_open,
    )
    text = render(request)
    before = render(known) if request.num_known else ""
    return (text[len(before) :], False) if text.startswith(before) else (text, True)


@dataclass
class FakeGrammar(grammar_pb2_grpc.GrammarServiceServicer):
    """Compiles anything that does not contain `bad`."""

    identity: ModelIdentity

    async def Compile(self, request: grammar_pb2.CompileRequest, context: Context) -> grammar_pb2.CompileResponse:
        if "bad" in request.text:
            what = f"type {request.text[:20]!r} is unknown, accepted is string or number"
            raise InvalidRequestError(f"response_format.json_schema.schema: {what}")
        return grammar_pb2.CompileResponse(key=bytes(range(32)))

    async def Fetch(self, request: grammar_pb2.FetchRequest, context: Context) -> AsyncIterator[Any]:
        raise NotImplementedError
        yield

    async def Describe(
        self, request: grammar_pb2.GrammarDescribeRequest, context: Context
    ) -> grammar_pb2.GrammarDescribeResponse:
        return grammar_pb2.GrammarDescribeResponse(identity=encode_identity(self.identity), epoch=1)


@dataclass
class FakeIntrospection(telemetry_pb2_grpc.IntrospectionServiceServicer):
    """Fixed metrics of a service and of the scheduler behind it."""

    service: str

    async def Metrics(self, request: telemetry_pb2.MetricsRequest, context: Context) -> telemetry_pb2.MetricsResponse:
        text = (
            b"# HELP bough_steps_total Steps.\n# TYPE bough_steps_total counter\nbough_steps_total 3.0\n"
            b'# HELP target_info Target.\n# TYPE target_info gauge\ntarget_info{service="inner",x="a b"} 1.0\n'
        )
        names = [self.service, "scheduler"] if self.service == "detokenizer" else [self.service]
        processes = [
            telemetry_pb2.ProcessMetrics(service=name, instance=f'{name} "1"', exposition=text) for name in names
        ]
        return telemetry_pb2.MetricsResponse(processes=processes)


class FakeChain:
    """The services behind a gateway, each on a Unix socket, to be started and killed one by one."""

    def __init__(self, num_detokenizers: int = 1) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gw-"))
        self.model = make_model_dir(self.folder / "tiny")
        self.identity = read_model_files(self.model).identity
        self.backend = Backend()
        self.tokenizer = FakeTokenizer(self.identity)
        self.grammar = FakeGrammar(self.identity)
        self.detokenizers = [FakeDetokenizer(self.backend, self.identity) for _ in range(num_detokenizers)]
        self.scheduler = self.backend.scheduler = FakeScheduler()
        self._servers: dict[str, RpcServer] = {}
        self._producer: asyncio.Task[None] | None = None

    def address(self, name: str) -> str:
        return f"unix:{self.folder / name}.sock"

    @property
    def detokenizer_addresses(self) -> str:
        return ",".join(self.address(f"detokenizer{i}") for i in range(len(self.detokenizers)))

    async def start(self) -> None:
        self._producer = asyncio.create_task(self.backend.produce())
        await self.start_service("tokenizer")
        await self.start_service("grammar")
        await self.start_service("scheduler")
        for i in range(len(self.detokenizers)):
            await self.start_service(f"detokenizer{i}")

    async def start_service(self, name: str) -> None:
        rpc = RpcServer(self.address(name))
        kind = name.rstrip("0123456789")
        if kind == "tokenizer":
            tokenizer_pb2_grpc.add_TokenizerServiceServicer_to_server(self.tokenizer, rpc.server)
        elif kind == "grammar":
            grammar_pb2_grpc.add_GrammarServiceServicer_to_server(self.grammar, rpc.server)
        elif kind == "scheduler":
            scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(self.scheduler, rpc.server)
        else:
            copy = self.detokenizers[int(name.removeprefix("detokenizer"))]
            detokenizer_pb2_grpc.add_DetokenizerServiceServicer_to_server(copy, rpc.server)
        telemetry_pb2_grpc.add_IntrospectionServiceServicer_to_server(FakeIntrospection(kind), rpc.server)
        await rpc.start()
        await rpc.set_ready(True)
        self._servers[name] = rpc

    async def set_ready(self, name: str, ready: bool) -> None:
        await self._servers[name].set_ready(ready)

    async def kill(self, name: str) -> None:
        """End a service without any grace."""
        await self._servers.pop(name).server.stop(None)

    async def stop(self) -> None:
        for name in list(self._servers):
            await self.kill(name)
        if self._producer is not None:
            self._producer.cancel()
            await asyncio.gather(self._producer, return_exceptions=True)
        shutil.rmtree(self.folder)


def make_model_dir(path: Path, **generation: Any) -> Path:
    path.mkdir(parents=True)
    config = {"vocab_size": VOCAB_SIZE, "max_position_embeddings": MAX_CONTEXT, "eos_token_id": 0}
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer.json").write_text("{}")
    (path / "generation_config.json").write_text(json.dumps(generation or {"top_p": 0.9, "top_k": 40}))
    return path
