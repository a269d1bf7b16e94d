"""One program, as a gateway works on it: what each call does once its turn has come."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from bough.common.errors import BoughError, InternalError, InvalidRequestError, UnavailableError
from bough.common.requests import StateRef
from bough.gateway import rules
from bough.gateway.domain import Base, IdsPrompt, TextPrompt
from bough.gateway.errors import ContextLengthError, refuse
from bough.gateway.generate import Generator, Running, Scoring
from bough.gateway.programs.actions import (
    MAX_CHILDREN,
    MAX_CHOICES,
    MIN_CHOICES,
    Changed,
    ChatExtension,
    Extend,
    Fork,
    Generate,
    Join,
    Release,
    Rollback,
    Score,
    Select,
    Selected,
)
from bough.gateway.programs.batches import Batcher
from bough.gateway.programs.chats import chat_tokens
from bough.gateway.programs.ledger import Ledger
from bough.gateway.programs.orders import (
    CutOrder,
    ExtendOrder,
    ForkOrder,
    JoinOrder,
    LookOrder,
    Order,
    ReleaseOrder,
    StateEnd,
)
from bough.gateway.programs.outputs import kept_ids
from bough.gateway.receiver import Call, Piece

logger = logging.getLogger(__name__)

Encoder = Batcher[str, tuple[int, ...]]


def new_encoder(generator: Generator) -> Encoder:
    """Encodes texts with nothing added, those of one moment in one call."""

    async def encode(texts: Sequence[str]) -> Sequence[tuple[int, ...] | Exception]:
        return await generator.tokenizer.encode(texts, add_special_tokens=False)

    return Batcher(encode, most=rules.MAX_PROMPTS, at_once=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What of a call could be done before its turn."""

    ids: asyncio.Future[tuple[int, ...]] | None = None
    """Of a text that is added."""


NOTHING = Prepared()


class Program:
    """Works on the states of a program.

    Args:
        generator: Runs generations.
        encoder: Encodes texts.
        ledger: The way to the states.
        name: Public name.
        lease_s: How long states outlive the last call.
        remembers: Keep in mind how states end. Not for one of many gateways, each of which sees some of the calls.
        traceparent: Trace context of the client.
    """

    def __init__(
        self,
        *,
        generator: Generator,
        encoder: Encoder,
        ledger: Ledger,
        name: str,
        lease_s: int,
        remembers: bool,
        traceparent: str = "",
    ) -> None:
        self.name = name
        self.lease_s = lease_s
        self.ledger = ledger
        self._generator = generator
        self._encoder = encoder
        self._remembers = remembers
        self._traceparent = traceparent
        self._ends: dict[int, StateEnd] = {}

    def is_new(self) -> None:
        """The program has just been opened: state 0 is empty."""
        self._note(0, StateEnd())

    def prepare(self, action: object) -> Prepared:
        """Begin with what does not depend on the calls before."""
        if isinstance(action, Extend) and isinstance(action.content, TextPrompt):
            return Prepared(ids=self._encoder.put(action.content.text))
        return NOTHING

    async def extend(self, action: Extend, prepared: Prepared = NOTHING) -> Changed:
        """Add to a state."""
        end = await self._end_of(action.state)
        if isinstance(action.content, ChatExtension):
            return await self._extend_chat(action.state, action.content, end)
        if isinstance(action.content, IdsPrompt):
            rules.check_ids(action.content.ids, self._generator.model.identity, field="token_ids")
            return await self._add(action.state, action.content.ids, end)
        text = action.content.text
        if end.length:
            ids = await (prepared.ids or self._encoder.put(text))
        else:
            # The beginning gets what that of a prompt gets.
            (ids,) = await self._generator.tokenizer.encode([text], traceparent=self._traceparent)
        return await self._add(action.state, ids, end)

    @asynccontextmanager
    async def generate(self, call: Call, action: Generate) -> AsyncIterator[Generation]:
        """Have the model go on with a state: as `Generator.run`, of which the result has yet to be kept."""
        end = await self._end_of(action.state)
        names = {**action.request.names, "prompt": "state"}
        request = replace(action.request, base=self._base(action.state, end), names=names)
        async with self._generator.run(call, request, traceparent=self._traceparent) as running:
            yield Generation(self, action, running, end)

    async def select(self, call: Call, action: Select) -> Selected:
        """Score texts as continuations of a state."""
        if not MIN_CHOICES <= len(action.choices) <= MAX_CHOICES:
            raise refuse("choices", list(action.choices), f"{MIN_CHOICES} to {MAX_CHOICES} texts")
        end = await self._end_of(action.state)
        if not end.length:
            raise InvalidRequestError("state: has no tokens, accepted is at least one", field="state")
        choices = await asyncio.gather(*[self._encoder.put(text) for text in action.choices])
        base = self._base(action.state, end)
        for i, (ids, text) in enumerate(zip(choices, action.choices, strict=True)):
            if not ids:
                raise refuse(f"choices[{i}]", text, "a text of at least one token")
            self._check_room(end.length + len(ids))
        scorings = [Scoring(forced=ids, base=base) for ids in choices]
        if action.unconditional:
            start = self._start_ids()
            # A namespace of its own keeps what others may not see out of the common cache.
            namespace = self.ledger.program
            scorings += [Scoring(forced=ids, prompt=start, cache_namespace=namespace) for ids in choices]
        logprobs = await self._score(call, scorings)
        others = logprobs[len(choices) :] if action.unconditional else [None] * len(choices)
        scores = [
            Score(token_ids=ids, logprobs=found, unconditional_logprobs=other)
            for ids, found, other in zip(choices, logprobs[: len(choices)], others, strict=True)
        ]
        return Selected(scores=tuple(scores))

    async def fork(self, action: Fork) -> Changed:
        """Branch a state."""
        if not 1 <= len(action.children) <= MAX_CHILDREN:
            raise refuse("children", list(action.children), f"1 to {MAX_CHILDREN} numbers of new states")
        _check_distinct("children", action.children)
        end = await self._order(ForkOrder(action.state, action.children), action.state)
        for child in action.children:
            self._note(child, end)
        return Changed(state=action.state, length=end.length)

    async def join(self, action: Join) -> Changed:
        """Add to a state what its branches have got; they are released."""
        if not action.children:
            raise refuse("children", [], "at least one branch of the state")
        _check_distinct("children", action.children)
        order = JoinOrder(action.state, action.children)
        end = await self._order(order, action.state, *action.children)
        self._forget(action.children)
        self._note(action.state, end)
        return Changed(state=action.state, length=end.length)

    async def rollback(self, action: Rollback) -> Changed:
        """Cut a state off."""
        end = await self._order(CutOrder(action.state, action.length), action.state)
        self._note(action.state, end)
        return Changed(state=action.state, length=end.length)

    async def release(self, action: Release) -> Changed:
        """Give states up."""
        if not action.states:
            raise refuse("states", [], "at least one state")
        await self._order(ReleaseOrder(action.states), *action.states)
        self._forget(action.states)
        return Changed(state=action.states[0])

    async def keep_alive(self) -> None:
        """Keep the lease from ending, until cancelled. NotFoundError where it has ended, or the scheduler is new."""
        period_s, now = self.lease_s / 3, asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(max(0.0, self.ledger.last_s + period_s - now()))
            if now() - self.ledger.last_s < period_s:
                continue
            try:
                await self.ledger.renew()
            except UnavailableError as error:
                # It may come back before the lease ends; if the program is lost with it, that will be said then.
                logger.warning("lease not renewed: %s", error)
                await asyncio.sleep(period_s / 4)

    async def _extend_chat(self, state: int, extension: ChatExtension, end: StateEnd) -> Changed:
        if extension.num_known and not end.length:
            raise refuse("num_known", extension.num_known, "0 for a state without tokens")
        tokens = await chat_tokens(self._generator.tokenizer, extension, traceparent=self._traceparent)
        if not tokens.replaces:
            return await self._add(state, tokens.ids, end)
        self._check_room(len(tokens.ids))
        self._forget((state,))
        _, end = await self.ledger.order_all(CutOrder(state, 0), ExtendOrder(state, tokens.ids))
        self._note(state, end)
        return Changed(state=state, length=end.length)

    async def _add(self, state: int, ids: tuple[int, ...], end: StateEnd) -> Changed:
        """Add tokens to a state that ends so, unless it has changed."""
        if ids:
            self._check_room(end.length + len(ids))
            end = await self._order(ExtendOrder(state, ids, end.length), state)
            self._note(state, end)
        return Changed(state=state, length=end.length)

    async def _keep(self, action: Generate, running: Running, end: StateEnd) -> Changed:
        output, options = running.output, action.request.options
        if output is None:
            return Changed(state=action.state, length=end.length)

        async def decode(lists: Sequence[Sequence[int]]) -> list[str]:
            return await self._generator.pool.decode_all(lists, skip_special_tokens=options.skip_special_tokens)

        ids = await kept_ids(
            output,
            tail=end.tail,
            include_stop=options.include_stop,
            eos=self._generator.model.eos_token_ids,
            decode=decode,
            encode=self._encoder.put,
        )
        return await self._add(action.state, ids, end)

    async def _score(self, call: Call, scorings: Sequence[Scoring]) -> list[tuple[float, ...]]:
        logprobs: list[list[float]] = [[] for _ in scorings]
        async with self._generator.score(call, scorings, traceparent=self._traceparent) as running:

            def take(pieces: list[Piece]) -> None:
                for piece in pieces:
                    running.saw(piece)
                    logprobs[piece.index] += [info.logprob for info in piece.logprobs or ()]

            await call.each(take)
        if any(len(found) != len(asked.forced) for found, asked in zip(logprobs, scorings, strict=True)):
            raise InternalError("the executor has not scored all tokens")
        return [tuple(found) for found in logprobs]

    def _start_ids(self) -> tuple[int, ...]:
        """What stands for nothing before a text: the beginning of a sequence, or the end of another."""
        model = self._generator.model
        start = model.config.get("bos_token_id")
        ids = (start,) if isinstance(start, int) else model.eos_token_ids[:1]
        if not ids:
            raise refuse("unconditional", True, "false: the model has no token that begins or ends a sequence")
        return ids

    def _base(self, state: int, end: StateEnd) -> Base:
        return Base(ref=StateRef(self.ledger.program, state), length=end.length, tail=end.tail)

    def _check_room(self, length: int) -> None:
        context = self._generator.model.identity.max_context
        if length > context:
            raise ContextLengthError(
                f"state: would have {length} tokens, accepted are at most {context}: "
                f"the model's context holds {context} tokens of prompt and output together",
                field="state",
            )

    async def _end_of(self, state: int) -> StateEnd:
        end = self._ends.get(state)
        if end is None:
            end = await self.ledger.order(LookOrder(state))
            self._note(state, end)
        return end

    async def _order(self, order: Order, *states: int) -> StateEnd:
        try:
            return await self.ledger.order(order)
        except BoughError:
            # Somebody else may have changed or released them.
            self._forget(states)
            raise

    def _note(self, state: int, end: StateEnd) -> None:
        if self._remembers:
            self._ends[state] = end

    def _forget(self, states: Sequence[int]) -> None:
        for state in states:
            self._ends.pop(state, None)


class Generation:
    """A generation on a state. Once all pieces of `running` were seen, `keep` makes them a part of the state."""

    def __init__(self, program: Program, action: Generate, running: Running, end: StateEnd) -> None:
        self.running = running
        self._program = program
        self._action = action
        self._end = end

    async def keep(self) -> Changed:
        """Add what counts of the output to the state, unless there are several outputs."""
        return await self._program._keep(self._action, self.running, self._end)


def _check_distinct(field: str, states: Sequence[int]) -> None:
    if len(set(states)) != len(states):
        twice = next(state for i, state in enumerate(states) if state in states[:i])
        raise refuse(field, twice, "each state once")
