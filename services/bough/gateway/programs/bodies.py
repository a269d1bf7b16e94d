"""The bodies that the REST endpoints of programs take."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from pydantic import Field

from bough.gateway.domain import IdsPrompt, TextPrompt
from bough.gateway.errors import refuse
from bough.gateway.messages import chat_prompt
from bough.gateway.programs.actions import (
    MAX_CHILDREN,
    ChatExtension,
    Extend,
    Fork,
    Generate,
    Join,
    Opening,
    Release,
    Rollback,
    Select,
)
from bough.gateway.schema import Body, CompletionOptions, TokenizeBody, Tool
from bough.gateway.translate import completion_of

State = Annotated[int, Field(ge=0, lt=1 << 64)]
Length = Annotated[int, Field(ge=0, lt=1 << 32)]

_DRAWN_BITS = 52
"""Numbers that the server draws stay exact in JavaScript."""


class ProgramBody(Body):
    """The body of POST /v1/programs."""

    model: str | None = None
    lease_s: Length | None = None
    cache_salt: str | None = Field(None, max_length=1024)

    def opening(self) -> Opening:
        """As an opening."""
        return Opening(model=self.model or "", lease_s=self.lease_s, cache_salt=self.cache_salt or "")


class ExtendBody(Body):
    """Text, token ids or the messages of a chat for a state."""

    state: State
    text: str | None = None
    token_ids: list[Length] | None = None
    messages: list[dict[str, Any]] | None = Field(None, min_length=1)
    tools: list[Tool] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    num_known: Length | None = None
    is_open: bool | None = None
    open_turn: bool | None = None

    def action(self) -> Extend:
        """As an action. InvalidRequestError unless it adds exactly one thing."""
        contents = {"text": self.text, "token_ids": self.token_ids, "messages": self.messages}
        given = [name for name, value in contents.items() if value is not None]
        if len(given) != 1:
            raise refuse("text", self.text, "exactly one of text, token_ids and messages")
        of_chat = ("tools", "chat_template_kwargs", "num_known", "is_open", "open_turn")
        for name in () if self.messages is not None else of_chat:
            if (value := getattr(self, name)) is not None:
                raise refuse(name, value, "null without messages")
        if self.text is not None:
            return Extend(state=self.state, content=TextPrompt(self.text))
        if self.token_ids is not None:
            return Extend(state=self.state, content=IdsPrompt(tuple(self.token_ids)))
        return Extend(state=self.state, content=self._chat())

    def _chat(self) -> ChatExtension:
        chat = TokenizeBody(
            messages=self.messages,
            tools=self.tools,
            chat_template_kwargs=self.chat_template_kwargs,
            add_generation_prompt=False,
        )
        return ChatExtension(
            chat=chat_prompt(chat),
            num_known=self.num_known or 0,
            is_open=bool(self.is_open),
            open_turn=bool(self.open_turn),
        )


class GenerateBody(CompletionOptions):
    """A completion without a prompt: the state is the prompt."""

    state: State

    def action(self) -> Generate:
        """As an action."""
        if self.cache_salt is not None:
            raise refuse("cache_salt", self.cache_salt, "null: the program has it")
        return Generate(state=self.state, request=completion_of(self, (IdsPrompt(()),)))


class SelectBody(Body):
    """Texts to choose from."""

    state: State
    choices: list[str]
    unconditional: bool | None = None

    def action(self) -> Select:
        """As an action."""
        return Select(state=self.state, choices=tuple(self.choices), unconditional=bool(self.unconditional))


class ForkBody(Body):
    """Numbers of new states, or how many of them."""

    state: State
    children: list[State] | None = None
    n: int | None = None

    def action(self) -> Fork:
        """As an action; where only n is said, numbers are drawn. InvalidRequestError unless it says one of them."""
        if (self.children is None) == (self.n is None):
            raise refuse("children", self.children, "a list of numbers, or n instead: exactly one of the two")
        if self.n is None:
            return Fork(state=self.state, children=tuple(self.children or ()))
        if not 1 <= self.n <= MAX_CHILDREN:
            raise refuse("n", self.n, f"an integer from 1 to {MAX_CHILDREN}")
        drawn: set[int] = set()
        while len(drawn) < self.n:
            drawn.add(secrets.randbits(_DRAWN_BITS) + 1)
        return Fork(state=self.state, children=tuple(drawn))


class JoinBody(Body):
    """Branches whose ends are added."""

    state: State
    children: list[State]

    def action(self) -> Join:
        """As an action."""
        return Join(state=self.state, children=tuple(self.children))


class RollbackBody(Body):
    """How many tokens a state keeps."""

    state: State
    length: Length

    def action(self) -> Rollback:
        """As an action."""
        return Rollback(state=self.state, length=self.length)


class ReleaseBody(Body):
    """States that are given up."""

    states: list[State]

    def action(self) -> Release:
        """As an action."""
        return Release(states=tuple(self.states))
