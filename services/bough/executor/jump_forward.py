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
    sequence, matcher, params = running.sequence, running.matcher, running.sequence.params
    if sequence.status is not SequenceStatus.DECODING or sequence.num_pending or not running.is_started:
        return ()
    # Penalties look at the tokens before, which are not known yet while drafts are computed side by side.
    if params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1.0:
        return ()
    produced = sequence.num_generated
    room = min(running.stop.max_tokens - produced - 1, MAX_DRAFTS)
    if room < 1 or produced < params.min_tokens:
        return ()
    assert matcher is not None
    drafts = matcher.forced(room, cost)
    stops = running.stop.stop_token_ids
    return next((drafts[:index] for index, token in enumerate(drafts) if token in stops), drafts)
