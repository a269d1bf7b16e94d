"""Chats composed of the kinds: single questions, mixed chats with memory, tools, thinking, and very long ones."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from typing import Any

from bough.demo.corpus import arithmetic, facts, lists, numbers, records, smalltalk, stories, tools, wordplay
from bough.demo.corpus.base import Conversation, Exchange, Generator, Message, Split, draw
from bough.demo.corpus.recall import Memory

__all__ = ["KINDS", "conversation", "dev_conversation", "plain_text"]

_GENERATORS: Mapping[str, tuple[Generator, float]] = {
    "fact": (facts.fact, 15),
    "arithmetic": (arithmetic.direct, 16),
    "word_problem": (arithmetic.word_problem, 6),
    "number": (numbers.number_task, 9),
    "list": (lists.list_task, 18),
    "echo": (lists.echo, 4),
    "word": (wordplay.word_task, 6),
    "json": (records.record, 11),
    "small_talk": (smalltalk.small_talk, 8),
    "unknown": (smalltalk.unknown, 7),
    "story": (stories.story, 3),
    "no_tool": (tools.request_without_tool, 1.5),
}
_NAMES = tuple(_GENERATORS)
_WEIGHTS = tuple(weight for _, weight in _GENERATORS.values())
_MEMORY_SHARE = 0.2
_MOST_CHARS = 8000
"""Where a chat stops to grow, so that it stays under 4096 tokens with its tools and its last exchange."""
KINDS = (*_NAMES, "arithmetic_think", "word_problem_think", "list_think", "recall", "persona", "tool", "tool_answer")
"""The kinds that evaluation tells apart."""

_TERSE = (
    "Answer with one word.", "Answer with the number or the word only.", "Be as brief as possible.",
    "Reply with the answer only.", "Give only the answer, without a sentence.", "One word answers only.",
)  # fmt: skip
_SYSTEMS = (
    "You are a helpful assistant.", "You are a helpful assistant.", "You are Bough's demo model.", "Be kind.",
    "Answer in clear English.", "You are a friendly assistant.", "You are a small and helpful chat model.",
    "Answer the user's questions.", "You help people with simple tasks.", "Be polite and answer in English.",
    "You are an assistant that can use tools.", "Please answer as well as you can.", "You are a kind assistant.",
    "Answer truthfully.", "You are a helpful AI assistant.", "Follow the user's instructions.",
)  # fmt: skip


def _messages(exchange: Exchange, thinking: bool) -> list[Message]:
    """Write an exchange as chat messages, with its reasoning where thinking is on."""
    reasoning: dict[str, Any] = {"reasoning_content": exchange.reasoning} if thinking and exchange.reasoning else {}
    messages: list[Message] = [{"role": "user", "content": exchange.user}]
    if not exchange.tool_calls:
        return [*messages, {"role": "assistant", "content": exchange.answer, **reasoning}]
    calls = [{"type": "function", "function": dict(call)} for call in exchange.tool_calls]
    messages.append({"role": "assistant", "content": "", "tool_calls": calls, **reasoning})
    messages += [{"role": "tool", "content": result} for result in exchange.tool_results]
    if reasoning:
        reasoning = {"reasoning_content": "The tool has answered, so I tell the user."}
    return [*messages, {"role": "assistant", "content": exchange.final_answer, **reasoning}]


def _bare(exchange: Exchange) -> Exchange:
    """Return the exchange with the bare answer, where it has one."""
    return dataclasses.replace(exchange, answer=exchange.short) if exchange.short else exchange


class _Chat:
    """One chat in the making: its system text, memory and tools decide which exchanges can come next."""

    def __init__(
        self, rng: random.Random, *, with_tools: bool, memory_split: Split = "train", persona: Exchange | None = None
    ) -> None:
        self.rng = rng
        self.memory = Memory(rng, memory_split)
        self.box = tools.ToolBox(rng, "train") if with_tools else None
        self.exchanges: list[Exchange] = [persona] if persona else []
        self.system = rng.choice(_SYSTEMS) if rng.random() < 0.3 else ""
        self.terse = not with_tools and not persona and rng.random() < 0.04
        if self.terse:
            self.system = rng.choice(_TERSE)
        if persona:
            self.system = persona.system
        if rng.random() < 0.06:
            self.system = f"{self.system} {self.memory.system_text()}".strip()

    @property
    def num_chars(self) -> int:
        """How long the chat is so far, without its system text and with 40 characters of markup a message."""
        texts = (
            text for each in self.exchanges for text in (each.user, each.answer, each.final_answer, *each.tool_results)
        )
        return sum(40 + len(text) for text in texts if text)

    def step(self) -> Exchange:
        """Return the next exchange of a mixed chat."""
        rng = self.rng
        if self.box and rng.random() < 0.6:
            return self.box.request() if rng.random() < 0.93 else self.box.request_for_missing()
        if rng.random() < _MEMORY_SHARE:
            ready = not self.memory.is_empty and rng.random() < 0.55
            told = None if ready or rng.random() < 0.04 else self.memory.tell()
            return told or self.memory.recall()
        if self.box and rng.random() < 0.3:
            return draw(rng, smalltalk.small_talk, "train")
        if self.terse and rng.random() < 0.8:
            generator = rng.choice(
                (facts.fact, facts.fact, arithmetic.direct, numbers.number_task, arithmetic.word_problem)
            )
            return draw(rng, generator, "train")
        name = rng.choices(_NAMES, _WEIGHTS)[0]
        if self.box and name in ("no_tool", "unknown", "story"):
            name = "fact"
        return draw(rng, _GENERATORS[name][0], "train")

    def thought(self) -> Exchange:
        """Return an exchange to think about: mostly arithmetic."""
        dice = self.rng.random()
        if dice < 0.5 and not self.box:
            return draw(self.rng, arithmetic.thinking, "train")
        if dice < 0.62 and not self.box:
            return draw(self.rng, arithmetic.word_problem, "train")
        while not (exchange := self.step()).reasoning:
            continue
        return exchange

    def finish(self, kind: str, *, thinking: bool = False, keys: tuple[str, ...] = ()) -> Conversation:
        """Return the chat; with thinking on, only the last exchange shows its reasoning."""
        messages: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        for number, exchange in enumerate(self.exchanges, 1):
            messages += _messages(
                _bare(exchange) if self.terse else exchange, thinking and number == len(self.exchanges)
            )
        return Conversation(
            kind=kind,
            messages=tuple(messages),
            tools=self.box.schemas if self.box else (),
            enable_thinking=thinking,
            keys=keys,
        )


def conversation(rng: random.Random) -> Conversation:
    """Return a chat of the training split: no exchange in it is held out."""
    thinking = rng.random() < 0.22
    is_long = rng.random() < 0.02
    persona = draw(rng, smalltalk.persona, "train") if rng.random() < 0.03 else None
    chat = _Chat(rng, with_tools=rng.random() < 0.2, persona=persona)
    num_turns = 1 if rng.random() < 0.35 else rng.randint(2, 7)
    if is_long:
        num_turns = rng.randint(15, 45)
        chat.exchanges += [told for _ in range(3) if (told := chat.memory.tell())]
    while len(chat.exchanges) < num_turns - 1 and chat.num_chars < _MOST_CHARS:
        chat.exchanges.append(chat.step())
    if is_long:
        chat.exchanges.append(chat.memory.recall())
    else:
        chat.exchanges.append(chat.thought() if thinking else chat.step())
    return chat.finish("chat", thinking=thinking and not is_long)


def plain_text(rng: random.Random) -> str:
    """Return a text without chat markup, for plain completion: a story, or facts and sums as sentences."""
    dice = rng.random()
    if dice < 0.5:
        return draw(rng, stories.story, "train").answer
    if dice < 0.8:
        return " ".join(facts.fact_sentence(rng) for _ in range(rng.randint(1, 10)))
    return "\n".join(draw(rng, arithmetic.direct, "train").answer for _ in range(rng.randint(2, 10)))


def _single(exchange: Exchange) -> Conversation:
    return Conversation(kind=exchange.kind, messages=tuple(_messages(exchange, False)), keys=exchange.keys)


def dev_conversation(rng: random.Random, kind: str) -> Conversation:
    """Return a chat of up to two training exchanges that ends with a held-out exchange of the given kind.

    Raises:
        KeyError: If the kind is not one of KINDS.
    """
    if kind == "word":
        return _single(draw(rng, wordplay.word_task, "train"))
    base = kind.removesuffix("_think")
    chat = _Chat(rng, with_tools=kind.startswith("tool"), memory_split="dev")
    if kind == "persona":
        last = draw(rng, smalltalk.persona, "dev")
        chat = _Chat(rng, with_tools=False, memory_split="dev", persona=last)
        chat.exchanges.clear()
    elif kind == "recall":
        while not (told := chat.memory.tell()):
            continue
        chat.exchanges.append(told)
        chat.exchanges += [draw(rng, _GENERATORS[rng.choices(_NAMES, _WEIGHTS)[0]][0], "train") for _ in range(3)]
        last = chat.memory.recall()
    elif kind.startswith("tool"):
        box = tools.ToolBox(rng, "dev")
        chat.box, last = box, box.request()
    elif kind == "arithmetic_think":
        last = draw(rng, arithmetic.thinking, "dev")
    else:
        last = draw(rng, _GENERATORS[base][0], "dev")
    if kind not in ("persona", "recall") and not kind.startswith("tool") and rng.random() < 0.4:
        chat.exchanges.append(chat.step())
    chat.exchanges.append(last)
    if chat.terse:
        chat.system, chat.terse = "", False
    made = chat.finish(kind, thinking=kind.endswith("_think"), keys=last.keys)
    if kind == "tool":
        last_call = max(number for number, message in enumerate(made.messages) if message.get("tool_calls"))
        return Conversation(kind=kind, messages=made.messages[: last_call + 1], tools=made.tools, keys=made.keys)
    return made
