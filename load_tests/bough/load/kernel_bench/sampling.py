"""Sampling beside the speed of memory: `python -m bough.load.kernel_bench.sampling`.

One table line is one variant of `sample` at a vocabulary of Qwen3: all its launches within a CUDA graph, the median of
replays. The floor is one read of the logits. "searched" counts the lines whose candidates overflowed or that have both
a large top-k and top-p: their cut is searched from the whole line.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from bough.kernels.gpu.sampling import SamplingFlag, SamplingState, SamplingWorkspace, sample
from bough.kernels.gpu.sampling_filter import STREAMED
from bough.kernels.gpu.sampling_types import CAPACITY
from bough.load.kernel_bench.linear import BANDWIDTH, graph_us

LINES = (1, 64, 256)
VOCAB_SIZE = 151_936
_NUM_TOP = 20
_DEVICE = torch.device("cuda")
_DRAW, _RANKED = SamplingFlag.DRAW, SamplingFlag.DRAW | SamplingFlag.RANKED


@dataclass(frozen=True)
class Variant:
    """What all rows of a case ask for."""

    flags: SamplingFlag
    filtered: bool = False
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


VARIANTS = {
    "greedy": Variant(SamplingFlag(0)),
    "draw": Variant(_DRAW),
    "draw, penalties": Variant(_DRAW | SamplingFlag.PENALIZED),
    "draw, grammar": Variant(_DRAW | SamplingFlag.MASKED),
    "draw, logprobs": Variant(_DRAW | SamplingFlag.LOGPROBS),
    "filtered, none asks": Variant(_DRAW, filtered=True),
    "top-k 50": Variant(_RANKED, filtered=True, top_k=50),
    "top-k 50, top-p 0.9": Variant(_RANKED, filtered=True, top_k=50, top_p=0.9),
    "top-p 0.9": Variant(_RANKED, filtered=True, top_p=0.9),
    "top-k 2000": Variant(_RANKED, filtered=True, top_k=2000),
    "top-k 2000, top-p 0.9": Variant(_RANKED, filtered=True, top_k=2000, top_p=0.9),
    "min-p 0.05": Variant(_DRAW | SamplingFlag.FLOORED, filtered=True, min_p=0.05),
}
LOGITS = {"flat": 1.0, "peaked": 4.0}
"""Standard deviation of normally distributed logits."""


def _state(lines: int, variant: Variant) -> SamplingState:
    state = SamplingState.empty(lines, VOCAB_SIZE, _DEVICE)
    state.flags.fill_(int(variant.flags))
    state.top_k.fill_(variant.top_k)
    state.top_p.fill_(variant.top_p)
    state.min_p.fill_(variant.min_p)
    state.presence.fill_(0.5)
    state.seed.copy_(torch.arange(lines, device=_DEVICE))
    return state


class Case:
    """One variant over some lines."""

    def __init__(self, logits: Tensor, variant: Variant, workspace: SamplingWorkspace, ring: Tensor) -> None:
        lines = logits.shape[0]
        self._logits, self._variant, self._workspace, self._ring = logits, variant, workspace, ring
        self._state = _state(lines, variant)
        workspace.masks.fill_(-1)
        self._rows = torch.arange(lines, dtype=torch.int32, device=_DEVICE)
        self._position = torch.full((lines,), 9, dtype=torch.int32, device=_DEVICE)
        self._counter = torch.zeros(1, dtype=torch.int32, device=_DEVICE)
        self._steps = max(1, 32 // lines)

    def _launch(self) -> None:
        for _ in range(self._steps):
            sample(
                self._logits,
                self._rows,
                self._position,
                self._state,
                self._workspace,
                ring=self._ring,
                step_counter=self._counter,
                filtered=self._variant.filtered,
                logprobs=bool(self._variant.flags & SamplingFlag.LOGPROBS),
            )

    def microseconds(self) -> float:
        """The time of one step."""
        return graph_us(self._launch) / self._steps

    def searched(self) -> int:
        """Lines whose cut was searched from all their logits in the last step."""
        if not self._variant.filtered or not self._variant.flags & SamplingFlag.RANKED:
            return 0
        lines, work = self._logits.shape[0], self._workspace
        streamed = work.mode[:lines] == STREAMED.value
        full = work.num_candidates[:lines].amax(1) > CAPACITY
        return int((streamed | full).sum())


def main() -> int:
    """Print a table."""
    if not torch.cuda.is_available():
        print("this needs a CUDA device")
        return 1
    workspace = SamplingWorkspace(max(LINES), VOCAB_SIZE, _DEVICE, num_top=_NUM_TOP)
    ring = torch.zeros(8, max(LINES), dtype=torch.int64, pin_memory=True)
    normal = torch.randn(max(LINES), VOCAB_SIZE, device=_DEVICE)
    print(f"{'':24}{'logits':>8}{'lines':>7}{'us':>10}{'MB':>8}   of {BANDWIDTH / 1e12} TB/s   searched")
    for name, variant in VARIANTS.items():
        for kind, deviation in LOGITS.items():
            for lines in LINES:
                logits = normal[:lines] * deviation
                case = Case(logits, variant, workspace, ring)
                us, num_bytes = case.microseconds(), logits.numel() * 4
                share = num_bytes / BANDWIDTH * 1e6 / us
                print(
                    f"{name:24}{kind:>8}{lines:7}{us:10.1f}{num_bytes / 1e6:8.1f}{share:14.0%}{case.searched():11}",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
