"""When a sequence ends."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bough.common.sampling import FinishReason, SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRule:
    """Decides for each token of one sequence whether it is the last one.

    The token that ends a sequence counts as produced; the detokenizer leaves the text of a stop token out.
    """

    stop_token_ids: frozenset[int]
    """End-of-sequence ids, unless ignored, and the request's own stop token ids."""
    first_stop: int
    """Position from which on a stop token ends the sequence."""
    max_tokens: int
    """Tokens that may be produced: the request's limit or what the context leaves, whichever is less."""

    @classmethod
    def build(
        cls, params: SamplingParams, *, eos_token_ids: Iterable[int], num_prompt_tokens: int, max_context: int
    ) -> StopRule:
        """The rule of a request.

        Args:
            params: of the request.
            eos_token_ids: the model's end-of-sequence ids.
            num_prompt_tokens: length of the prompt.
            max_context: tokens a sequence may have, prompt included.
        """
        eos = () if params.ignore_eos else eos_token_ids
        return cls(
            stop_token_ids=frozenset((*eos, *params.stop_token_ids)),
            # Before min_tokens the sampler masks stop tokens unless a grammar allows nothing else: that end is final.
            first_stop=0 if params.grammar is not None else params.min_tokens,
            max_tokens=min(params.max_tokens, max_context - num_prompt_tokens),
        )

    def reason(self, token: int, position: int) -> FinishReason:
        """Why the sequence ends with this token at this position of the output (first: 0), or NONE if it does not."""
        if token in self.stop_token_ids and position >= self.first_stop:
            return FinishReason.STOP
        if position + 1 >= self.max_tokens:
            return FinishReason.LENGTH
        return FinishReason.NONE
