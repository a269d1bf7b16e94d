"""What may be done to the states of a program, and the answers: plain data, no protobuf."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Extend:
    """Add tokens to a state."""

    state: int
    tokens: tuple[int, ...]
    at_length: int | None = None
    """Only if the state has so many tokens: who adds a generation must not do so behind another call's change."""


@dataclass(frozen=True, slots=True)
class Fork:
    """Make states that are equal to one."""

    state: int
    children: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Join:
    """Add to a state what branches of it have got since they branched, and release them."""

    state: int
    children: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cut:
    """Keep the first tokens of a state."""

    state: int
    length: int


@dataclass(frozen=True, slots=True)
class Release:
    """Give states up."""

    states: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Look:
    """Ask how a state ends."""

    state: int


@dataclass(frozen=True, slots=True)
class UnknownOrder:
    """An order that this version does not know; it is refused."""


StateOrder = Extend | Fork | Join | Cut | Release | Look | UnknownOrder


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramChange:
    """Orders for one program."""

    program: bytes
    lease_s: int | None = None
    """Opens the program where it is not known; None: it must be."""
    cache_namespace: bytes = b""
    """Of a program that is opened."""
    orders: tuple[StateOrder, ...] = ()
    close: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StateAnswer:
    """What became of an order: of a fork, what each child is."""

    length: int = 0
    tail: tuple[int, ...] = ()
    code: int = 0
    """A gRPC status number; where it is not 0, nothing was done."""
    message: str = ""
