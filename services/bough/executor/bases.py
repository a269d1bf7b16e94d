"""Bases: sequences of tokens that prompts begin with, which the scheduler sends once and then names.

A branch of a long state is a prompt that names the state's base and has a few tokens of its own. Where the base's pages
are in the cache, a pin remembers them, so the branch finds them without a look at the tokens. A pin is no lock: the
pages may go when the pool is short, and then they are computed again from the tokens, which stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from bough.common.prefix_hash import TOKEN_BYTES, token_bytes
from bough.executor.cache import Pin


class Base:
    """Made on the event loop's thread; from then on the engine's thread has it.

    Args:
        packed: The tokens, as `token_bytes` packs them; at least one.
        namespace: Whose cache entries its pages are.
    """

    __slots__ = ("is_released", "largest", "namespace", "num_tokens", "packed", "pin")

    def __init__(self, packed: bytes, namespace: bytes) -> None:
        self.packed = packed
        self.namespace = namespace
        self.num_tokens = len(packed) // TOKEN_BYTES
        self.largest = int(np.frombuffer(packed, "<u4").max())
        """The largest token id."""
        self.pin: Pin | None = None
        """Where its full pages are in the cache, as far as is known; see `found`."""
        self.is_released = False
        """No further order names it: its pages are like all others."""

    @property
    def found(self) -> Pin | None:
        """Where its full pages are, all of them; None where that is not known."""
        return self.pin if self.pin is not None and self.pin.node is not None else None

    def since(self, start: int) -> list[int]:
        """The tokens from `start` on."""
        tokens: list[int] = np.frombuffer(self.packed, "<u4")[start:].tolist()
        return tokens


class Bases:
    """Those that the scheduler may name."""

    def __init__(self) -> None:
        self._bases: dict[int, Base] = {}

    def add(self, number: int, *, parent: int, tokens: Sequence[int], namespace: bytes) -> None:
        """Learn a base. Without its parent it stays unknown, and so does one without tokens.

        Args:
            number: under which it is named.
            parent: the base that it begins with, 0 for none.
            tokens: behind those of the parent.
            namespace: the parent's, where there is one.
        """
        before = self.find(parent, namespace)
        if (before is None) != (not parent) or not tokens:
            return
        packed = token_bytes(tokens)
        self._bases[number] = Base(packed if before is None else before.packed + packed, namespace)

    def find(self, number: int, namespace: bytes) -> Base | None:
        """The base of this number, if it is known and of this namespace."""
        base = self._bases.get(number)
        return base if base is not None and base.namespace == namespace else None

    def release(self, numbers: Iterable[int]) -> list[Base]:
        """Forget these; returns those that were known."""
        return [base for number in numbers if (base := self._bases.pop(number, None)) is not None]

    def clear(self) -> list[Base]:
        """Forget all; returns them."""
        return self.release(list(self._bases))
