"""Prompts that several requests have in common, or begin with."""

from __future__ import annotations

from collections.abc import Iterator

from bough.scheduler.mirror import PromptHashes

_MAX_DEPTH = 8
"""A prompt keeps so many prefixes of prefixes alive at most."""


class SharedPrompt:
    """A prompt whose page hashes are computed once for all who have it.

    Args:
        tokens: The prompt.
        prefix: One that it begins with; what is known of that is not computed again.
    """

    __slots__ = ("_depth", "_hashes", "_prefix", "is_kept", "tokens")

    def __init__(self, tokens: tuple[int, ...], prefix: SharedPrompt | None = None) -> None:
        self.tokens = tokens
        self.is_kept = False
        """Further requests may get this very prompt, or one that begins with it."""
        self._hashes: dict[tuple[bytes, int], PromptHashes] = {}
        self._prefix: SharedPrompt | None = None
        self._depth: int = 0
        if prefix is not None and prefix._depth < _MAX_DEPTH:
            self._prefix, self._depth = prefix, prefix._depth + 1

    def parts(self) -> Iterator[SharedPrompt]:
        """The prompts that it begins with as far as they are known, each longer than the one before, and itself."""
        if self._prefix is not None:
            yield from self._prefix.parts()
        yield self

    def hashes(self, namespace: bytes, page_size: int) -> PromptHashes:
        """Its page hashes."""
        known = self._hashes.get((namespace, page_size))
        if known is None:
            before = None if self._prefix is None else self._prefix.hashes(namespace, page_size)
            known = self._hashes[namespace, page_size] = PromptHashes(namespace, self.tokens, page_size, before)
        return known
