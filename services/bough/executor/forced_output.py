"""Outputs that are given: the model only says how likely they are.

Nothing but the next given token is allowed, and those behind it are certain drafts. So a step computes all that its
limits let through, in the same batch as others, and log probabilities, being of raw logits, are those of the model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from bough.common.errors import InvalidRequestError
from bough.common.model import ModelIdentity
from bough.common.sampling import SamplingParams

_WORD_BITS = 32


class ForcedOutput:
    """See `Matcher`.

    Args:
        tokens: The output.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = tokens
        self._num_accepted = 0

    def fill(self, bitmask: Tensor, line: int) -> None:
        """Write what is allowed next into `bitmask[line]`, int32 words."""
        words = bitmask[line].numpy().view(np.uint32)
        words[:] = 0
        if not self.is_done:
            word, bit = divmod(self._tokens[self._num_accepted], _WORD_BITS)
            words[word] = 1 << bit

    def accept(self, token: int) -> bool:
        """Advance; False when it is not the next token."""
        accepted = not self.is_done and token == self._tokens[self._num_accepted]
        self._num_accepted += accepted
        return accepted

    def forced(self, most: int, least_chance: float) -> Sequence[int]:
        """The next tokens, all of them certain."""
        return self._tokens[self._num_accepted : self._num_accepted + most]

    def rollback(self, num_tokens: int) -> None:
        """Go back before the last accepted tokens."""
        self._num_accepted -= num_tokens

    @property
    def batched(self) -> None:
        """None: xgrammar has no part in it."""
        return None

    def suspect(self) -> None:
        """Nothing to time: what comes next is known."""

    @property
    def is_done(self) -> bool:
        """The output is whole."""
        return self._num_accepted == len(self._tokens)


def forced_output(params: SamplingParams, num_prompt: int, identity: ModelIdentity) -> ForcedOutput:
    """The matcher of a request with `forced_ids`.

    Raises:
        InvalidRequestError: They are no token ids, do not fit behind a prompt of so many tokens, or something else may
            end the output before its last one or asks for another output.
    """
    forced = params.forced_ids
    if params.grammar is not None or params.reasoning is not None:
        _refuse("come with a grammar or a reasoning part, accepted is neither")
    if params.max_tokens != len(forced):
        _refuse(f"are {len(forced)} and max_tokens is {params.max_tokens}, accepted is the same number")
    if params.stop_token_ids or not params.ignore_eos:
        _refuse("may hold a token that ends the output, accepted are no stop_token_ids, and ignore_eos")
    if (largest := max(forced)) >= identity.vocab_size:
        _refuse(f"hold {largest}, accepted are token ids from 0 to {identity.vocab_size - 1}")
    if (left := identity.max_context - num_prompt) < len(forced):
        _refuse(f"are {len(forced)}, accepted are at most {left}, which the context of the model has left")
    return ForcedOutput(forced)


def _refuse(reason: str) -> None:
    raise InvalidRequestError(f"forced_ids: {reason}", field="forced_ids")
