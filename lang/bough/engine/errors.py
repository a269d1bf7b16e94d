"""What can go wrong with an engine beside what its calls can; settings and models that cannot be used have their own.

EngineStartError     a service does not start
EngineClosedError    the engine was closed before a call was done
BatchError           some items of a batch failed; `results` has the others
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bough.common.errors import BoughError, UnavailableError


class EngineStartError(BoughError):
    """A service does not start; the text says why and what to do."""


class EngineClosedError(UnavailableError):
    """The engine was closed before a call was done."""


class BatchError(BoughError):
    """Some items of a batch failed, and all others are done.

    Args:
        what: What an item is.
        results: Of all items, in their order; None where one failed.
        errors: The failures, by the item's index.
    """

    def __init__(self, what: str, results: Sequence[Any | None], errors: Mapping[int, Exception]) -> None:
        first = min(errors)
        super().__init__(f"{len(errors)} of {len(results)} failed, first {what} {first}: {errors[first]}")
        self.results = list(results)
        self.errors = dict(errors)
