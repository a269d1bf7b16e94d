"""What is asked of the scheduler, which keeps the states of programs, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExtendOrder:
    """Add tokens to a state."""

    state: int
    tokens: tuple[int, ...]
    at_length: int | None = None
    """Refused where the state has another number of tokens; None: any."""


@dataclass(frozen=True, slots=True)
class ForkOrder:
    """Branch a state."""

    state: int
    children: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class JoinOrder:
    """Add to a state what its branches have got since they branched, and release them."""

    state: int
    children: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CutOrder:
    """Cut a state off."""

    state: int
    length: int


@dataclass(frozen=True, slots=True)
class ReleaseOrder:
    """Give states up."""

    states: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LookOrder:
    """Ask how a state ends."""

    state: int


Order = ExtendOrder | ForkOrder | JoinOrder | CutOrder | ReleaseOrder | LookOrder


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramChange:
    """Orders for one program, carried out one after the other."""

    program: bytes
    lease_s: int | None = None
    """Opens the program, or changes its lease."""
    cache_namespace: bytes = b""
    orders: tuple[Order, ...] = ()
    close: bool = False

    @property
    def may_be_repeated(self) -> bool:
        """Whether doing it twice is the same as once."""
        return not self.close and all(isinstance(order, LookOrder) for order in self.orders)


@dataclass(frozen=True, slots=True)
class StateEnd:
    """How long a state is, and its last tokens, at most 16."""

    length: int = 0
    tail: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class OrderAnswer:
    """What became of an order."""

    end: StateEnd
    code: int = 0
    """Number of a gRPC status; 0 where the order was carried out."""
    message: str = ""
