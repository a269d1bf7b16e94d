"""Decodes that compute tokens on trial: drafts behind the token that was sampled last, checked in the same step.

Each position samples as it would alone, and noise depends on seed and position only. So the tokens up to the first one
that is not its draft are those that steps of one token would have given, and what follows is dropped (the check of
speculative decoding, Leviathan et al. 2023, for drafts that are certain). How many tokens a sequence has after such a
step is known only with its results; until then it takes no part in further steps.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Items

from bough.executor.row_table import RowTable
from bough.executor.running_set import RunningSet
from bough.executor.sequence import Sequence, SequenceStatus
from bough.executor.step import ComposerLimits, RowWork, StepPlan

TakePages = Callable[[int], list[int] | None]


class DraftRows:
    """Part of the composer.

    Args:
        table: The rows.
        running: The sequences that have one.
        take_pages: Gives so many pages, or None.
    """

    def __init__(self, *, table: RowTable, running: RunningSet, take_pages: TakePages) -> None:
        self._table = table
        self._running = running
        self._take_pages = take_pages
        self._proposed: list[tuple[Sequence, tuple[int, ...]]] = []

    def propose(self, sequence: Sequence, drafts: Items[int]) -> None:
        """Tokens that may follow the last one of a sequence, for the next step alone.

        Args:
            sequence: decodes, and all its tokens are recorded.
            drafts: at least one; with them and one token more it has not reached its length.
        """
        self._proposed.append((sequence, tuple(drafts)))

    def add(self, plan: StepPlan, limits: ComposerLimits, num_waiting: int) -> int:
        """Let proposals join a step that has nothing but its decodes yet; how many tokens on trial there are then.

        What finds no pages decodes as ever.

        Args:
            plan: gets them.
            limits: of its tokens and lines of logits.
            num_waiting: sequences that may start in this step, and sample in it.
        """
        proposed = [entry for entry in self._proposed if entry[0].status is SequenceStatus.DECODING]
        self._proposed.clear()
        if not proposed:
            return 0
        num_drafts = 0
        room = self._room(limits, num_waiting)
        for (sequence, drafts), share in zip(
            proposed, shares([len(drafts) for _, drafts in proposed], room), strict=True
        ):
            fitting = drafts[:share]
            if not fitting or not self._grow(sequence, len(fitting)):
                continue
            num_drafts += len(fitting)
            self._running.start_drafting(sequence)
            sequence.drafts = fitting
            start = sequence.num_computed
            plan.chunks.append(
                RowWork(sequence=sequence, start=start, num_tokens=1 + len(fitting), samples=True, drafts=fitting)
            )
        return num_drafts

    def record(self, sequence: Sequence, tokens: Items[int]) -> int:
        """Note what the positions of a sequence sampled, which decodes from then on; how many of them count."""
        accepted = 1
        for token, draft in zip(tokens, sequence.drafts, strict=False):
            if token != draft:
                break
            accepted += 1
        sequence.drafts = ()
        sequence.num_pending -= 1
        sequence.tokens += tokens[:accepted]
        sequence.num_computed += accepted - 1  # that of the first was noted when the step was launched
        self._running.stop_drafting(sequence)
        self._table.start_decoding(sequence)
        return accepted

    def give_up(self, sequence: Sequence) -> None:
        """The step could not be launched: the sequence decodes as before."""
        sequence.drafts = ()
        self._running.stop_drafting(sequence)

    def _room(self, limits: ComposerLimits, num_waiting: int) -> int:
        """Tokens that may be drafts: beside the decodes, and with a line of logits each beside all that may sample."""
        num_decodes = len(self._running.decoding)
        room = limits.token_budget - num_decodes
        if limits.max_lines is None:
            return room
        num_sampling = num_decodes + len(self._running.prefilling) + min(num_waiting, self._table.num_free)
        return min(room, limits.max_lines - num_sampling)

    def _grow(self, sequence: Sequence, num_drafts: int) -> bool:
        """Pages for the drafts."""
        needed = (sequence.num_computed + num_drafts) // self._table.page_size + 1
        missing = needed - sequence.num_pages
        if missing <= 0:
            return True
        pages = self._take_pages(missing) if needed <= self._table.max_pages else None
        if pages is None:
            return False
        assert sequence.row is not None
        for page in pages:
            self._table.grow(sequence.row, sequence.num_pages, page)
            sequence.pages.append(page)
        return True


def shares(wanted: Items[int], room: int) -> list[int]:
    """How many tokens each may have of a room for all: none has an n-th one before all others have, if they want it.

    The first drafts of a row are the likeliest to count.
    """
    level, left = 0, max(room, 0)
    while (more := sum(number > level for number in wanted)) and more <= left:
        level += 1
        left -= more
    found = []
    for number in wanted:
        has_one_more = number > level and left > 0
        left -= has_one_more
        found.append(min(number, level) + has_one_more)
    return found
