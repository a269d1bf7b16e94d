"""A backend of the language that keeps states as token ids and goes on with them by plain completions, sharing nothing.

What it does is what the server promises of programs, written from the documentation and call by call.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from bough.lang.backends.base import ROOT, ChatMessages, Content, Generation, Message, Piece, PlainText, Selection
from bough.lang.choices import ChoiceLogprobs


@dataclass
class _State:
    ids: list[int] = field(default_factory=list)
    messages: tuple[Message, ...] = ()
    turn: str = ""
    is_open: bool = False
    branched_at: tuple[int, int, int] = (0, 0, 0)

    def copy(self) -> _State:
        marks = (len(self.ids), len(self.messages), len(self.turn))
        return replace(self, ids=list(self.ids), branched_at=marks)

    def known(self) -> tuple[Message, ...]:
        return (*self.messages, Message("assistant", self.turn)) if self.is_open else self.messages


class PlainTokens:
    """A server by its REST API."""

    def __init__(self, url: str, *, eos: Sequence[int]) -> None:
        self._url = url
        self._eos = tuple(eos)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[PlainTokensSession]:
        async with httpx.AsyncClient(base_url=self._url, timeout=60, trust_env=False) as client:
            yield PlainTokensSession(client, self._eos)


class PlainTokensSession:
    def __init__(self, client: httpx.AsyncClient, eos: tuple[int, ...]) -> None:
        self._client = client
        self._eos = eos
        self._states = {ROOT: _State()}
        self._next = ROOT + 1
        self._marks: list[_State] = []

    async def extend(self, state: int, content: Content) -> None:
        known = self._states[state]
        if isinstance(content, PlainText):
            known.ids += await self._encode(content.text, add_special_tokens=not known.ids)
            known.turn += content.text
            return
        await self._extend_chat(known, content)
        known.messages = (*known.known(), *content.messages)
        known.turn, known.is_open = "", content.opens_turn

    async def generate(self, state: int, generation: Generation) -> AsyncGenerator[Piece, None]:
        known = self._states[state]
        choice = await self._complete(known.ids, **generation.sampling.given())
        ids, text = choice["token_ids"], choice["text"]
        if ids and ids[-1] in self._eos:
            ids = ids[:-1]
        # As many tokens as the text begins with; what is left of it is cut into tokens anew.
        while not text.startswith(before := await self._decode(ids)):
            ids = ids[:-1]
        rest = text[len(before) :]
        known.ids += ids + (await self._encode(rest, add_special_tokens=False) if rest else [])
        known.turn += text
        yield Piece(text=text, finish_reason=choice["finish_reason"])

    async def select(self, state: int, selection: Selection) -> Sequence[ChoiceLogprobs]:
        scores = []
        for choice in selection.choices:
            ids = await self._encode(choice, add_special_tokens=False)
            alone = await self._logprobs([self._eos[0]], ids) if selection.unconditional else ()
            found = await self._logprobs(self._states[state].ids, ids)
            scores.append(ChoiceLogprobs(tokens=tuple(map(str, ids)), logprobs=found, unconditional=alone))
        return scores

    async def fork(self, state: int, count: int) -> Sequence[int]:
        numbers = range(self._next, self._next + count)
        self._next += count
        self._states.update({number: self._states[state].copy() for number in numbers})
        return numbers

    async def join(self, state: int, children: Sequence[int], *, append: bool) -> None:
        known = self._states[state]
        for child in children:
            branch = self._states.pop(child)
            if append:
                num_ids, num_messages, num_characters = branch.branched_at
                known.ids += branch.ids[num_ids:]
                known.messages += branch.messages[num_messages:]
                known.turn += branch.turn[num_characters:]

    async def position(self, state: int) -> int:
        self._marks.append(self._states[state].copy())
        return len(self._marks) - 1

    async def rollback(self, state: int, position: int) -> None:
        self._states[state] = replace(self._marks[position].copy(), branched_at=self._states[state].branched_at)

    async def release(self, states: Sequence[int]) -> None:
        for state in states:
            del self._states[state]

    async def _extend_chat(self, known: _State, content: ChatMessages) -> None:
        before = known.known()
        ids = await self._render((*before, *content.messages), add_generation_prompt=content.opens_turn)
        if not before:
            known.ids += ids
            return
        text_before = await self._decode(
            await self._render(before, add_generation_prompt=False, continue_final_message=known.is_open)
        )
        text = await self._decode(ids)
        assert text.startswith(text_before)
        if added := text[len(text_before) :]:
            known.ids += await self._encode(added, add_special_tokens=False)

    async def _logprobs(self, ids: list[int], continuation: list[int]) -> tuple[float, ...]:
        """Each token is pushed and produced by a call of its own; raw log probabilities do not know of it."""
        found: list[float] = []
        for i, token in enumerate(continuation):
            prompt = ids + continuation[:i]
            pushed = {"max_tokens": 1, "logprobs": 0, "logit_bias": {str(token): 100}, "temperature": 0}
            choice = await self._complete(prompt, **pushed)
            assert choice["token_ids"] == [token]
            found += choice["logprobs"]["token_logprobs"]
        return tuple(found)

    async def _complete(self, ids: list[int], **options: Any) -> dict[str, Any]:
        body = await self._post("/v1/completions", prompt=ids, return_token_ids=True, **options)
        choice: dict[str, Any] = body["choices"][0]
        return choice

    async def _encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        body = await self._post("/v1/tokenize", prompt=text, add_special_tokens=add_special_tokens)
        return list(body["tokens"])

    async def _render(self, messages: tuple[Message, ...], **options: bool) -> list[int]:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        return list((await self._post("/v1/tokenize", messages=turns, **options))["tokens"])

    async def _decode(self, ids: list[int]) -> str:
        return str((await self._post("/v1/detokenize", tokens=ids))["prompt"]) if ids else ""

    async def _post(self, path: str, **body: Any) -> dict[str, Any]:
        response = await self._client.post(path, json=body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer
