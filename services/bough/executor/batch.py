"""One step's input for the model, as tensors: no sequences and no scheduling words in here."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardBatch:
    """T query tokens of B rows, the rows one after the other.

    Row `b` owns the query tokens `query_start[b]:query_start[b + 1]`. They are the last ones of its context, so the
    first of them has position `context_lens[b] - (query_start[b + 1] - query_start[b])`. Rows with a single query token
    (decodes) come first. All tensors live on the device of the model and are contiguous.
    """

    tokens: Tensor
    """[T] int64: token ids."""
    positions: Tensor
    """[T] int64: position of each token in its sequence."""
    slots: Tensor
    """[T] int64: `page * page_size + offset` where the token's keys and values are written."""
    query_start: Tensor
    """[B + 1] int32: first query token of each row, and T at the end."""
    context_lens: Tensor
    """[B] int32: tokens of the row in the cache after this step, its own query tokens included."""
    page_table: Tensor
    """[B, P] int32: pages of each row in order; entries past the row's context are 0 and never read."""
    num_decode_rows: int
    """Rows `0..num_decode_rows - 1` have exactly one query token."""
    logit_rows: Tensor
    """[S] int64: indices into the T tokens whose logits are wanted; may be empty."""

    @property
    def num_tokens(self) -> int:
        """T, the query tokens of this step."""
        return int(self.tokens.shape[0])

    @property
    def num_rows(self) -> int:
        """B, the rows of this step."""
        return int(self.context_lens.shape[0])
