"""Attention of chunks by an implementation that is told on the host, once a step, which lengths and pages there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from bough.executor.attention.base import AttentionSpec
from bough.executor.kvcache import LayerCache
from bough.executor.step import StepArrays


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkPages:
    """The C chunks of a step: their query tokens and the pages of their contexts, chunk by chunk."""

    first_token: int
    """Of the first chunk, within the step; the step's last token is that of the last chunk."""
    query_start: npt.NDArray[np.int32]
    """[C + 1], counted from `first_token`."""
    page_start: npt.NDArray[np.int32]
    """[C + 1] indices into `pages`."""
    pages: npt.NDArray[np.int32]
    """[page_start[C]] in the order of the contexts."""
    last_page_len: npt.NDArray[np.int32]
    """[C] tokens of the context in its last page, 1 to the page size."""
    context_lens: npt.NDArray[np.int32]
    """[C] own chunk included."""

    @property
    def num_tokens(self) -> int:
        """Query tokens of all chunks."""
        return int(self.query_start[-1])


def chunk_pages(arrays: StepArrays, page_size: int) -> ChunkPages:
    """What a step's arrays say of its chunks, which are the lines after the decodes."""
    first_line = arrays.num_decode_rows
    first_token = int(arrays.query_start[first_line])
    context_lens = arrays.context_lens[first_line:]
    num_pages = (context_lens + (page_size - 1)) // page_size
    page_start = np.zeros(len(num_pages) + 1, np.int32)
    np.cumsum(num_pages, out=page_start[1:])
    table = arrays.page_table[first_line:]
    return ChunkPages(
        first_token=first_token,
        query_start=arrays.query_start[first_line:] - np.int32(first_token),
        page_start=page_start,
        pages=table[np.arange(table.shape[1]) < num_pages[:, None]],
        last_page_len=(context_lens - 1) % page_size + 1,
        context_lens=context_lens,
    )


class PlannedPrefill(Protocol):
    """Attention of one step's chunks, for the layers of that step, one after the other."""

    def attend(self, queries: Tensor, spec: AttentionSpec, cache: LayerCache, out: Tensor) -> None:
        """Causal attention of the chunks' tokens over their whole contexts; no other token of `out` is written.

        Args:
            queries: [T, H, D] of all tokens of the step.
            spec: of the layer, without a window.
            cache: of the layer, keys and values of these tokens included.
            out: [T, H, D].
        """
        ...


class PrefillPlanner(Protocol):
    """Makes the plan of a step."""

    def plan(self, chunks: ChunkPages) -> PlannedPrefill:
        """Plan a step, in the order of the current stream, without waiting for what is queued there."""
        ...
