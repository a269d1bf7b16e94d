"""Sampling on the device: [S, V] logits to one token a line, row state advanced, records for the host.

`sample` strings the launches of one variant together; each variant can be captured in a CUDA graph, for nothing is read
back and all shapes are fixed. What a line gets depends on its logits, its row and its position alone, never on the
other lines. The semantics are those of the CPU's sampler, up to the rounding of floats.
"""

from __future__ import annotations

from torch import Tensor

from bough.kernels.gpu.sampling_cut import cut
from bough.kernels.gpu.sampling_filter import bracket
from bough.kernels.gpu.sampling_logprobs import capture_logprobs, read_logprobs
from bough.kernels.gpu.sampling_reduce import reduce
from bough.kernels.gpu.sampling_rows import set_row_bias, set_row_counts
from bough.kernels.gpu.sampling_select import check_ring, select
from bough.kernels.gpu.sampling_types import (
    LogprobOutputs,
    SampleCode,
    SamplingFlag,
    SamplingState,
    SamplingWorkspace,
)

__all__ = [
    "LogprobOutputs",
    "SampleCode",
    "SamplingFlag",
    "SamplingState",
    "SamplingWorkspace",
    "sample",
    "set_row_bias",
    "set_row_counts",
]


def sample(
    logits: Tensor,
    rows: Tensor,
    sampled_position: Tensor,
    state: SamplingState,
    workspace: SamplingWorkspace,
    *,
    ring: Tensor,
    step_counter: Tensor,
    filtered: bool = False,
    logprobs: bool = False,
) -> LogprobOutputs | None:
    """Sample one token for each line: two launches, four more where `filtered`, three more with `logprobs`.

    Args:
        logits: [S, V] float32, each line contiguous (the stride between lines is free); overwritten where a row asks
            for penalties, bias, a mask or a minimum length.
        rows: [S] int32 stable row of each line; -1: padding. A row may have several, unless it has penalties; see
            `select` for what becomes of it.
        sampled_position: [S] int32 sequence position of the token to produce (that of its query plus 1).
        state: of the rows; `token`, `position` and `counts` are advanced.
        workspace: for at least S lines; `workspace.masks` holds the masks, `workspace.tokens` gets the tokens.
        ring: [ring_slots, max_lines] int64 records, see `select`; ring_slots is a power of two.
        step_counter: [1] int32 on the device; 1 is added.
        filtered: the variant for steps in which a row has top-k, top-p or min-p.
        logprobs: the variant for steps in which a row asks for log probabilities.

    Returns:
        `workspace.outputs` with `logprobs`, else None.

    Raises:
        ValueError: an argument does not fit; the text names it. Nothing has been launched then.
    """
    check_ring(ring, step_counter, logits.shape[0])
    if logprobs:
        capture_logprobs(logits, rows, sampled_position, state, workspace)
    reduce(logits, rows, sampled_position, state, workspace)
    if filtered:
        bracket(logits, rows, state, workspace)
        cut(logits, rows, state, workspace)
    select(
        logits, rows, sampled_position, state, workspace, ring=ring, step_counter=step_counter, filtered=filtered
    )  # fmt: skip
    return read_logprobs(logits, rows, sampled_position, state, workspace) if logprobs else None
