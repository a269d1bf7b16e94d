"""Text that a grammar forces is proposed as drafts, so that one step computes and checks all of it.

The idea is SGLang's jump-forward decoding (Zheng et al. 2024). There forced text is appended as it is; here each token
of it has to be what the model samples under the grammar's mask, so the output is the same with and without.
"""

from __future__ import annotations

from collections.abc import Sequence

from bough.executor.running import Running
from bough.executor.sequence import SequenceStatus

MAX_DRAFTS = 32
"""Tokens tried behind one; forced text is seldom longer, and each costs what a prompt's token does."""


def drafts_of(running: Running, cost: float) -> Sequence[int]:
    """Drafts for the next step of a sequence with a matcher; none where it does not decode or may not have any.

    Args:
        running: the sequence.
        cost: of computing a draft, as a part of what a token costs by itself. A draft less likely to be right than
            that loses time.
    """
    if running.sequence.num_pending or not running.is_started or (room := room_for_drafts(running)) < 1:
        return ()
    assert running.matcher is not None
    drafts = running.matcher.forced(room, cost)
    stops = running.stop.stop_token_ids
    return next((drafts[:index] for index, token in enumerate(drafts) if token in stops), drafts)


def room_for_drafts(running: Running) -> int:
    """How many drafts a sequence may have behind its last token, be that under way still."""
    sequence, params = running.sequence, running.sequence.params
    if sequence.status is not SequenceStatus.DECODING:
        return 0
    # Penalties look at the tokens before, which are not known yet while drafts are computed side by side.
    if params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1.0:
        return 0
    produced = sequence.num_generated + sequence.num_pending
    if produced < params.min_tokens:
        return 0
    room = running.stop.max_tokens - produced - 1
    # An output that is given is not tried: all of it counts.
    return room if params.forced_ids else min(room, MAX_DRAFTS)
