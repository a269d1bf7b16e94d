"""From a client's request to a running call: check, encode, compile, submit. Both APIs go through here."""

from __future__ import annotations

import asyncio
import logging
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from bough.common.errors import UnavailableError
from bough.common.ids import new_request_id
from bough.common.model import ModelFiles
from bough.common.requests import ResumePoint, Submission
from bough.common.sampling import FinishReason, Grammar, SamplingParams
from bough.common.telemetry import request_extra
from bough.gateway import rules
from bough.gateway.detokenizers import DetokenizerPool
from bough.gateway.domain import Base, ChatPrompt, Constraint, GenerationRequest, IdsPrompt, TextPrompt
from bough.gateway.errors import refuse
from bough.gateway.markup import Formats, Markup, Thoughts, chat_constraint, check_thoughts, thoughts_after
from bough.gateway.metrics import CallMeter, GatewayMetrics
from bough.gateway.parsed import Reading
from bough.gateway.peers import GrammarCompiler, Tokenizer
from bough.gateway.receiver import Call, Piece, Receiver

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Output:
    """What a call has produced, gathered."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    finish: FinishReason = FinishReason.NONE
    stop_string: str = ""

    def add(self, piece: Piece) -> None:
        """Take a piece in."""
        self.text += piece.text
        self.tokens += piece.tokens
        self.finish, self.stop_string = piece.finish, piece.stop_string


class Running:
    """A call under way, and its measurements."""

    def __init__(self, call: Call, meter: CallMeter) -> None:
        self.call = call
        self.reading: Reading | None = None
        """How its text is read; None: it is the answer as it is."""
        self.output: Output | None = None
        """Where what it produces is gathered; None: nowhere."""
        self._meter = meter

    def saw(self, piece: Piece) -> None:
        """A piece is about to be delivered."""
        self._meter.saw(piece)
        if self.output is not None:
            self.output.add(piece)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """Tokens of which the log probabilities are asked for, and what goes before them: a state, or a prompt."""

    forced: tuple[int, ...]
    base: Base | None = None
    prompt: tuple[int, ...] = ()
    cache_namespace: bytes = b""


class Generator:
    """Starts, resumes and ends generations.

    Args:
        model: The model served: identity and sampling defaults.
        tokenizer: Encodes prompts.
        grammar: Compiles constraints.
        markup: Knows how the model marks thoughts and tool calls.
        pool: The detokenizers.
        metrics: Where generations are measured.
    """

    def __init__(
        self,
        *,
        model: ModelFiles,
        tokenizer: Tokenizer,
        grammar: GrammarCompiler,
        markup: Markup,
        pool: DetokenizerPool,
        metrics: GatewayMetrics,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.pool = pool
        self._grammar = grammar
        self._markup = markup
        self._metrics = metrics
        self._running: set[Call] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @asynccontextmanager
    async def run(self, call: Call, request: GenerationRequest, *, traceparent: str = "") -> AsyncIterator[Running]:
        """A generation, submitted; on leaving, what ended is released and what has not is cancelled.

        Args:
            call: A new call, which may be failed at any time.
            request: What to generate.
            traceparent: Trace context that the services behind go on with.

        Raises:
            InvalidRequestError: The request is wrong.
            UnavailableError: A part of the chain is down for longer than a restart takes.
        """
        rules.check(request, self.model.identity)
        async with self._track(call) as running:
            running.reading = await self._prepare(call, request, traceparent)
            if request.base is not None and request.n == 1:
                running.output = Output()
            if not call.failed:
                self.pool.place(call.receivers)
            yield running

    @asynccontextmanager
    async def score(self, call: Call, scorings: Sequence[Scoring], *, traceparent: str = "") -> AsyncIterator[Running]:
        """As `run`, for outputs that are given: each of them is a sequence of the call, and comes with its logprobs."""
        async with self._track(call) as running:
            for scoring in scorings:
                base, num_tokens = scoring.base, len(scoring.forced)
                # An end-of-sequence token among them ends nothing.
                sampling = SamplingParams(
                    temperature=0.0,
                    max_tokens=num_tokens,
                    ignore_eos=True,
                    top_logprobs=0,
                    forced_ids=scoring.forced,
                )
                submission = Submission(
                    requests=(new_request_id(),),
                    prompt=scoring.prompt,
                    sampling=sampling,
                    cache_namespace=scoring.cache_namespace,
                    traceparent=traceparent,
                    name=call.name,
                    base=None if base is None else base.ref,
                    base_tail=() if base is None else base.tail,
                )
                call.prompts.append(scoring.prompt)
                call.num_prompt_tokens.append(len(scoring.prompt) + (0 if base is None else base.length))
                call.add(submission.requests[0], submission)
            if not call.failed:
                self.pool.place(call.receivers)
            yield running

    @asynccontextmanager
    async def resume(self, generation: str, points: Sequence[ResumePoint]) -> AsyncIterator[Running]:
        """Goes on with a generation that a stream was lost of, here or at another gateway.

        Args:
            generation: Its public name.
            points: Where the client's part of each continuation ends.
        """
        num_prompt_tokens, requests = parse_generation(generation)
        call = Call(generation)
        call.num_prompt_tokens = [num_prompt_tokens]
        for request, point in zip(requests, points, strict=True):
            receiver = call.add(request, None)
            receiver.position, receiver.text_offset = point.position, point.text_offset
            if (before := self.pool.find(request)) is not None:
                self._take_over(before)
        async with self._track(call) as running:
            self.pool.place(call.receivers)
            yield running

    async def drained(self) -> None:
        """Wait until no generation is under way."""
        await self._idle.wait()

    def abort_all(self, reason: str) -> None:
        """End all generations with an error."""
        for call in list(self._running):
            call.fail(UnavailableError(reason))

    @asynccontextmanager
    async def _track(self, call: Call) -> AsyncIterator[Running]:
        self._running.add(call)
        self._idle.clear()
        meter = self._metrics.begin(call)
        try:
            yield Running(call, meter)
        finally:
            self.pool.close(call.receivers)
            self._running.discard(call)
            if not self._running:
                self._idle.set()
            meter.finish()
            if logger.isEnabledFor(logging.DEBUG):
                tokens = sum(receiver.position for receiver in call.receivers)
                outcome = "abandoned" if call.num_open else "finished"
                logger.debug("%s, %d tokens produced", outcome, tokens, extra=request_extra(call.name))

    def _take_over(self, before: Receiver) -> None:
        self.pool.forget(before)
        before.call.fail(UnavailableError("another call goes on with this generation"))

    async def _prepare(self, call: Call, request: GenerationRequest, traceparent: str) -> Reading | None:
        formats = await self._markup.formats() if _is_chat(request) else Formats()
        check_thoughts(request, formats)
        constraint = chat_constraint(request, formats)
        prompts, grammar = await asyncio.gather(
            self._encode(request, formats, traceparent), self._compile(constraint, traceparent)
        )
        # A chat is the only prompt of its call.
        thoughts = prompts[0].thoughts
        reading = await self._markup.reading(request, thoughts) if _is_chat(request) else None
        reasoning = await self._markup.reasoning(request, constraint, thoughts) if _is_chat(request) else None
        special_tokens = reading is not None and reading.keeps_special_tokens
        base = request.base
        lengths = [len(prompt.ids) + (0 if base is None else base.length) for prompt in prompts]
        limits = [rules.check_length(request, length, self.model.identity) for length in lengths]
        for prompt, length, max_tokens in zip(prompts, lengths, limits, strict=True):
            submission = Submission(
                requests=tuple(new_request_id() for _ in range(request.n)),
                prompt=prompt.ids,
                sampling=rules.sampling_params(
                    request, self.model.defaults, max_tokens=max_tokens, grammar=grammar, reasoning=reasoning
                ),
                text=rules.text_options(request.options, special_tokens=special_tokens),
                cache_namespace=rules.cache_namespace(request.cache_salt),
                traceparent=traceparent,
                name=call.name,
                base=None if base is None else base.ref,
                base_tail=() if base is None else base.tail,
            )
            call.prompts.append(prompt.ids)
            call.num_prompt_tokens.append(length)
            for request_id in submission.requests:
                call.add(request_id, submission)
        return reading

    async def _compile(self, constraint: Constraint | None, traceparent: str) -> Grammar | None:
        return None if constraint is None else await self._grammar.compile(constraint, traceparent=traceparent)

    async def _encode(self, request: GenerationRequest, formats: Formats, traceparent: str) -> list[_Encoded]:
        texts = [prompt.text for prompt in request.prompts if isinstance(prompt, TextPrompt)]
        encoded = iter(await self.tokenizer.encode(texts, traceparent=traceparent) if texts else ())
        prompts: list[_Encoded] = []
        for prompt in request.prompts:
            if isinstance(prompt, IdsPrompt):
                prompts.append(_Encoded(prompt.ids))
            elif isinstance(prompt, ChatPrompt):
                ids, text = await self.tokenizer.encode_chat(prompt, traceparent=traceparent)
                prompts.append(_Encoded(ids, thoughts_after(text, prompt, formats)))
            else:
                prompts.append(_Encoded(next(encoded)))
        return prompts


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A prompt as the model gets it, and what it leaves the model to do."""

    ids: tuple[int, ...]
    thoughts: Thoughts = Thoughts.NONE


def _is_chat(request: GenerationRequest) -> bool:
    return any(isinstance(prompt, ChatPrompt) for prompt in request.prompts)


def generation_name(num_prompt_tokens: int, requests: Sequence[int]) -> str:
    """The public name of a generation: all that a gateway must know to go on with it."""
    packed = struct.pack(f"<I{len(requests)}Q", num_prompt_tokens, *requests)
    return urlsafe_b64encode(packed).rstrip(b"=").decode()


def parse_generation(name: str) -> tuple[int, tuple[int, ...]]:
    """(prompt tokens, request ids) of a generation's name; InvalidRequestError for anything else."""
    try:
        packed = urlsafe_b64decode(name + "=" * (-len(name) % 4))
        num_requests, rest = divmod(len(packed) - 4, 8)
        if num_requests < 1 or rest:
            raise ValueError
        num_prompt_tokens, *requests = struct.unpack(f"<I{num_requests}Q", packed)
    except (ValueError, struct.error):
        raise refuse("generation", name, "the `generation` of a GenerateResponse") from None
    return num_prompt_tokens, tuple(requests)
