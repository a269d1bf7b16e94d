"""The pool of KV pages: which are free and which are handed out."""

from __future__ import annotations

from collections.abc import Iterable


class PagePool:
    """Hands out page numbers 0 .. num_pages-1, each to one owner at a time.

    The pool knows nothing of what a page holds; the radix tree and the sequences own pages and give them back.
    """

    __slots__ = ("_free", "_is_used", "num_pages", "page_size")

    def __init__(self, *, num_pages: int, page_size: int = 16) -> None:
        if num_pages < 1 or page_size < 1:
            raise ValueError(f"num_pages and page_size must be positive, got {num_pages} and {page_size}")
        self.num_pages = num_pages
        self.page_size = page_size
        # Lowest numbers last, so that a lightly used pool stays in the front of the cache's memory.
        self._free = list(range(num_pages - 1, -1, -1))
        self._is_used = bytearray(num_pages)

    @property
    def num_free(self) -> int:
        """Pages that nobody owns."""
        return len(self._free)

    @property
    def num_used(self) -> int:
        """Pages handed out and not yet given back."""
        return self.num_pages - len(self._free)

    def can_allocate(self, num_pages: int) -> bool:
        """Whether `allocate(num_pages)` would succeed."""
        return num_pages <= len(self._free)

    def allocate(self, num_pages: int) -> list[int]:
        """Hands out `num_pages` pages.

        Raises:
            MemoryError: fewer pages are free; none is handed out.
        """
        if not self.can_allocate(num_pages):
            raise MemoryError(f"{num_pages} pages wanted, {len(self._free)} of {self.num_pages} free")
        if num_pages == 0:
            return []
        pages = self._free[-num_pages:]
        del self._free[-num_pages:]
        for page in pages:
            self._is_used[page] = 1
        return pages

    def free(self, pages: Iterable[int]) -> None:
        """Takes pages back.

        Raises:
            ValueError: a page is not handed out (freed twice, or never allocated).
        """
        for page in pages:
            if not self._is_used[page]:
                raise ValueError(f"page {page} is not in use")
            self._is_used[page] = 0
            self._free.append(page)
