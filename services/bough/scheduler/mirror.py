"""What the scheduler knows of an executor's prefix cache: the hashes of its pages, kept up to date by its events.

It may lag behind by a step, so it only ever guides order and estimates; the executor does its own matching.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from bough.common.prefix_hash import TOKEN_BYTES, page_hash, root_hash, token_bytes

_WIRE_HASH_BYTES = 8


def wire_hash(digest: bytes) -> int:
    """The number that stands for a page on the wire: the first 8 bytes of its hash, little-endian."""
    return int.from_bytes(digest[:_WIRE_HASH_BYTES], "little")


class PromptHashes:
    """Chained hashes of a prompt's full pages, computed as far as somebody asks.

    A prompt that misses the cache costs one hash, however long it is.

    Args:
        namespace: Prefixes are shared only within it.
        prompt: The tokens.
        page_size: Tokens in a page.
        before: Hashes of another prompt that this one begins with; nothing of it is computed again.
    """

    def __init__(
        self, namespace: bytes, prompt: Sequence[int], page_size: int, before: PromptHashes | None = None
    ) -> None:
        self.page_size = page_size
        # The last prompt token is always computed, since its logits are wanted: the page that ends with it is no match.
        self.num_pages = max(len(prompt) - 1, 0) // page_size
        self._prompt = prompt
        self._before = before
        self._start = 0 if before is None else before.num_pages
        self._hashes: list[int] = []  # from page `_start` on
        self._parent = root_hash(namespace)  # of the next one
        self._is_chained = not self._start

    def __getitem__(self, page: int) -> int:
        if page < self._start and self._before is not None:
            return self._before[page]
        self._reach(page)
        return self._hashes[page - self._start]

    def since(self, page: int) -> Iterator[int]:
        """The hashes from a page on."""
        if page < self._start and self._before is not None:
            yield from self._before.since(page)
            page = self._start
        own = self._hashes
        while page < self.num_pages:
            self._reach(page)
            yield from own[page - self._start : self.num_pages - self._start]
            page = self._start + len(own)

    def _reach(self, page: int) -> None:
        """Compute the own hashes up to that of a page."""
        if not self._is_chained and self._before is not None:
            self._parent, self._is_chained = self._before._digest_of_last(), True
        own = self._hashes
        for number in range(self._start + len(own), page + 1):
            start = number * self.page_size
            packed = token_bytes(self._prompt[start : start + self.page_size])
            assert len(packed) == self.page_size * TOKEN_BYTES
            self._parent = page_hash(self._parent, packed)
            own.append(wire_hash(self._parent))

    def _digest_of_last(self) -> bytes:
        """The whole hash of the last page."""
        self._reach(self.num_pages - 1)
        return self._parent


class PrefixMirror:
    """The pages that one executor's prefix cache holds."""

    def __init__(self) -> None:
        self._pages: set[int] = set()

    def __len__(self) -> int:
        return len(self._pages)

    def clear(self) -> None:
        """Forget everything, as after a restart of the executor."""
        self._pages.clear()

    def apply(self, *, stored: Iterable[int], removed: Iterable[int], cleared: bool) -> None:
        """Follow the executor's events of one step."""
        if cleared:
            self._pages.clear()
        self._pages.update(stored)
        self._pages.difference_update(removed)

    def matched_pages(self, hashes: PromptHashes, hint: int = 0) -> int:
        """How many of a prompt's leading pages are cached.

        Args:
            hashes: Of the prompt.
            hint: An earlier answer for the same prompt. A cached page implies its ancestors, so the search only has to
                walk from there; looking at a whole queue again after each step stays cheap.
        """
        pages, matched = self._pages, hint
        while matched and hashes[matched - 1] not in pages:
            matched -= 1
        for page in hashes.since(matched):
            if page not in pages:
                break
            matched += 1
        return matched

    def matched_tokens(self, namespace: bytes, prompt: Sequence[int], page_size: int) -> int:
        """How many leading tokens of a prompt are cached, in whole pages."""
        return self.matched_pages(PromptHashes(namespace, prompt, page_size)) * page_size
