"""Requests that wait for an executor, in the order in which they would start if nothing else counted."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from bough.common.requests import Submission
from bough.scheduler.mirror import PromptHashes
from bough.scheduler.requests import RequestRecord

if TYPE_CHECKING:
    from bough.scheduler.executors import Executor


@dataclass(slots=True, kw_only=True, eq=False)
class Waiting:
    """What is admitted together: the siblings of a submission, or one request that had begun elsewhere."""

    submission: Submission
    records: list[RequestRecord]
    key: tuple[int, int, int, int, int]
    """(0 for a request that had begun, else 1; minus priority; turn; arrival; sibling): smaller goes first.

    So a program that has come first ends first, and what it asks for side by side stays together.
    """
    bypassed: int = 0
    """How often another entry was preferred while this was the first."""
    hashes: dict[int, PromptHashes] = field(default_factory=dict)
    """By page size."""
    matches: dict[int, int] = field(default_factory=dict)
    """By `id` of an executor: cached pages at the last look."""

    @classmethod
    def of(cls, records: list[RequestRecord]) -> Waiting:
        """An entry for records of one submission."""
        first = records[0]
        key = (0 if first.tokens else 1, -first.submission.priority, first.turn, first.arrival, first.index)
        return cls(submission=first.submission, records=records, key=key)

    @property
    def rank(self) -> tuple[int, int]:
        """Entries of one rank may overtake each other, never those of a better (smaller) rank."""
        return self.key[:2]

    def cached_tokens(self, executor: Executor) -> int:
        """Prompt tokens that an executor's prefix cache holds, by the mirror."""
        capacity = executor.capacity
        if capacity is None or not len(executor.mirror):
            return 0
        hashes = self.hashes.get(capacity.page_size)
        if hashes is None:
            hashes = self.hashes[capacity.page_size] = self._hashes(capacity.page_size)
        key, shared = id(executor), self.records[0].prompt
        hint = self.matches.get(key)
        if hint is None and shared is not None:
            hint = min(shared.match(key), hashes.num_pages)
        pages = executor.mirror.matched_pages(hashes, hint or 0)
        if pages != self.matches.get(key) and shared is not None:
            shared.note_match(key, pages, capacity.page_size)
        self.matches[key] = pages
        return pages * capacity.page_size

    def _hashes(self, page_size: int) -> PromptHashes:
        namespace, shared = self.submission.cache_namespace, self.records[0].prompt
        if shared is None:
            return PromptHashes(namespace, self.submission.prompt, page_size)
        return shared.hashes(namespace, page_size)


class WaitingQueue:
    """A list sorted by `Waiting.key`. Inserting moves a few thousand pointers at worst, since the queue is bounded."""

    def __init__(self) -> None:
        self._entries: list[Waiting] = []
        self.num_records = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(self._entries)

    @property
    def first(self) -> Waiting:
        """The entry whose turn it is. IndexError when empty."""
        return self._entries[0]

    def window(self, size: int) -> Iterator[Waiting]:
        """The first entries."""
        return islice(self._entries, size)

    def add(self, entry: Waiting) -> None:
        """Put an entry into its place."""
        insort(self._entries, entry, key=lambda e: e.key)
        self.num_records += len(entry.records)
        for record in entry.records:
            record.waiting = entry

    def remove(self, entry: Waiting) -> None:
        """Take an entry out."""
        index = bisect_left(self._entries, entry.key, key=lambda e: e.key)
        assert self._entries[index] is entry
        del self._entries[index]
        self.num_records -= len(entry.records)
        for record in entry.records:
            record.waiting = None

    def discard(self, record: RequestRecord) -> None:
        """Take one request out, and its entry with it when it was the last one."""
        entry = record.waiting
        assert entry is not None
        if len(entry.records) == 1:
            self.remove(entry)
            return
        entry.records.remove(record)
        record.waiting = None
        self.num_records -= 1
