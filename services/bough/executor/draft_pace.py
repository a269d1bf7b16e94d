"""When an engine that runs ahead does better to wait, so that it can propose drafts.

A step that is composed while a token of a sequence is under way has no drafts for it: they stand behind a token that
nobody knows. Taking all results first lets the GPU rest while the next step is made. Whether that pays is seen without
waiting: a grammar knows what must follow the tokens that are recorded, and what is under way is the first of that.
"""

from __future__ import annotations

from collections.abc import Iterable

from bough.executor.jump_forward import room_for_drafts
from bough.executor.running import Running
from bough.executor.sequence import SequenceStatus

PAUSE = 0.2
"""Part of a step that the GPU rests where the next one is composed with all results: 10 to 25 % by estimate."""
_LIKELY = 0.5
"""Drafts that are likelier wrong than right are no reason to wait."""


def pays_to_wait(constrained: Iterable[Running], num_rows: int) -> bool:
    """Whether taking all results before the next step is composed wins more tokens than it costs.

    Args:
        constrained: sequences with matchers.
        num_rows: all that run, with a grammar or without: the pause costs each of them the same.
    """
    left = max(PAUSE * num_rows, 1.0)
    for entry in constrained:
        left -= _tokens_won(entry)
        if left <= 0:
            return True
    return False


def _tokens_won(running: Running) -> int:
    """Tokens that a sequence has more after the next step if that is composed with all results."""
    sequence, matcher = running.sequence, running.matcher
    if sequence.status is SequenceStatus.DRAFTING:
        return 1  # it takes no part in the step otherwise
    num_pending = sequence.num_pending
    # Where nothing is under way, drafts are proposed in any case.
    if not num_pending or matcher is None or (room := room_for_drafts(running)) < 1:
        return 0
    forced = matcher.forced(room + num_pending, _LIKELY)
    stops = running.stop.stop_token_ids
    num_likely = next((index for index, token in enumerate(forced) if token in stops), len(forced))
    return max(num_likely - num_pending, 0)
