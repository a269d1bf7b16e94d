"""Prompts that several requests have in common, or begin with: what they share is neither copied nor computed twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

from bough.scheduler.mirror import PromptHashes

_MAX_DEPTH = 8
"""A prompt keeps so many prefixes of prefixes alive at most."""


class PromptTokens(Sequence[int]):
    """Tokens that go on from others without a copy of them.

    Args:
        before: What they go on from.
        own: What follows.
    """

    __slots__ = ("_before", "_own", "_start")

    def __init__(self, before: PromptTokens | None, own: tuple[int, ...]) -> None:
        self._before = before
        self._own = own
        self._start = 0 if before is None else len(before)

    def __len__(self) -> int:
        return self._start + len(self._own)

    def __iter__(self) -> Iterator[int]:
        if self._before is not None:
            yield from self._before
        yield from self._own

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[int, ...]: ...
    def __getitem__(self, index: int | slice) -> int | tuple[int, ...]:
        if isinstance(index, slice):
            start, end, step = index.indices(len(self))
            return self._between(start, end) if step == 1 else tuple(self)[index]
        if index < 0:
            index += len(self)
        if index >= self._start or self._before is None:
            return self._own[index - self._start]
        return self._before[index]

    def _between(self, start: int, end: int) -> tuple[int, ...]:
        first = self._start
        if start >= first or self._before is None:
            return self._own[start - first : max(end - first, 0)]
        if end <= first:
            return self._before[start:end]
        return self._before[start:first] + self._own[: end - first]


class SharedPrompt:
    """A prompt whose page hashes are computed once for all who have it.

    Args:
        own: The prompt, behind what the prefix has.
        prefix: One that it begins with.
    """

    __slots__ = ("_depth", "_hashes", "_matches", "is_kept", "prefix", "tokens")

    def __init__(self, own: tuple[int, ...], prefix: SharedPrompt | None = None) -> None:
        self.is_kept = False
        """Further requests may get this very prompt, or one that begins with it."""
        self.prefix: SharedPrompt | None = None
        self._hashes: dict[tuple[bytes, int], PromptHashes] = {}
        self._matches: dict[int, int] = {}
        self._depth: int = 0
        before: PromptTokens | None = None
        if prefix is not None and prefix._depth < _MAX_DEPTH:
            self.prefix, self._depth, before = prefix, prefix._depth + 1, prefix.tokens
        elif prefix is not None:
            own = prefix.tokens[:] + own
        self.tokens: PromptTokens = PromptTokens(before, own)

    @property
    def num_own(self) -> int:
        """Tokens that it does not have from a prefix."""
        return len(self.tokens) - (0 if self.prefix is None else len(self.prefix.tokens))

    def parts(self) -> Iterator[SharedPrompt]:
        """The prompts that it begins with as far as they are known, each longer than the one before, and itself."""
        if self.prefix is not None:
            yield from self.prefix.parts()
        yield self

    def hashes(self, namespace: bytes, page_size: int) -> PromptHashes:
        """Its page hashes."""
        known = self._hashes.get((namespace, page_size))
        if known is None:
            before = None if self.prefix is None else self.prefix.hashes(namespace, page_size)
            known = self._hashes[namespace, page_size] = PromptHashes(namespace, self.tokens, page_size, before)
        return known

    def match(self, executor: int) -> int:
        """Cached pages that were found last of this prompt, or of one that it begins with; see `note_match`."""
        return max((part._matches.get(executor, 0) for part in self.parts()), default=0)

    def note_match(self, executor: int, num_pages: int, page_size: int) -> None:
        """So many pages are cached.

        Args:
            executor: Where; any number that stands for it.
            num_pages: Of this prompt.
            page_size: Tokens in a page there.
        """
        for part in self.parts():
            part._matches[executor] = min(num_pages, len(part.tokens) // page_size)
