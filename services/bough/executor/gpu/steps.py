"""The work of a step on the GPU, as CUDA graphs of fixed sizes where there is one and launch by launch otherwise."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from bough.executor.attention.prefill import PlannedPrefill
from bough.executor.gpu.batch import GpuBatch
from bough.executor.gpu.large_steps import LargeSteps
from bough.executor.gpu.ring import ResultRing
from bough.executor.gpu.rows import DeviceRows
from bough.executor.gpu.runner import GpuRunner
from bough.executor.gpu.timing import gpu_seconds
from bough.executor.loader import Progress, no_progress
from bough.executor.mixed_budget import TimedBudget
from bough.executor.step import StepArrays
from bough.kernels.gpu.rows import StepInput, begin_decode, begin_mixed
from bough.kernels.gpu.sampling import LogprobOutputs, SamplingWorkspace, sample
from bough.kernels.gpu.sampling_types import MAX_TOP_LOGPROBS

logger = logging.getLogger(__name__)

_DECODE_SIZES = (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512)
_SAMPLE_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_MIXED_SIZES = (16, 32, 48, 64, 96, 128, 192, 256, 320, 384, 512, 640, 768, 1024, 1280, 1536, 2048)
"""Tokens of steps with chunks that have one graph each."""
_LARGE_SIZES = (3072, 4096, 6144)
"""Tokens of larger steps without decodes that may have graphs, beside the largest of all; see `LargeSteps`."""


class Variant(NamedTuple):
    """What the sampling of a step has to offer."""

    filtered: bool = False
    """A row has top-k, top-p or min-p."""
    logprobs: bool = False
    """A row asks for log probabilities."""


class _Key(NamedTuple):
    """What a graph does and for which size."""

    what: str
    size: int
    variant: Variant = Variant()
    shared: bool = False
    """Decodes share prefixes, and attention makes use of it."""


class GpuSteps:
    """Launches the parts of steps: input, layers, head with sampling. Uses the runner's stream.

    Args:
        runner: The loaded model.
        rows: State of the rows.
        ring: Where results go.
        max_rows: Rows that may share a step.
        shares: Whether any layer makes use of prefixes that decodes share.
    """

    def __init__(
        self, runner: GpuRunner, rows: DeviceRows, ring: ResultRing, *, max_rows: int, shares: bool = True
    ) -> None:
        self._runner = runner
        self._rows = rows
        self._ring = ring
        device, max_lines = runner.device, runner.max_lines
        max_tokens = max(runner.token_budget, max_rows)
        self._input = StepInput.empty(max_tokens=max_tokens, max_lines=max_rows, max_samples=max_lines, device=device)
        self._hidden = torch.empty(
            (max_tokens, runner.model_config.hidden_size), dtype=runner.layout.dtype, device=device
        )
        self._sampling = SamplingWorkspace(max_lines, runner.vocab_size, device, num_top=MAX_TOP_LOGPROBS)
        self._shares = shares
        self._max_rows = max_rows
        self._max_lines = max_lines
        self._max_tokens = max_tokens
        self._decode_sizes = _sizes(_DECODE_SIZES, max_rows)
        self._sample_sizes = _sizes(_SAMPLE_SIZES, max_lines)
        self._mixed_sizes = [size for size in _MIXED_SIZES if size <= max_tokens] or [max_tokens]
        self._graphs: dict[_Key, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle()
        large = [size for size in _sizes(_LARGE_SIZES, max_tokens) if size > self._mixed_sizes[-1]]
        self._large = LargeSteps(self._large_layers, large, is_planned=runner.plans_prefill, pool=self._pool)

    @property
    def logprob_outputs(self) -> LogprobOutputs:
        """What the last step with log probabilities found, on the device."""
        return self._sampling.outputs

    @property
    def masks(self) -> Tensor:
        """[L, ceil(V / 32)] int32 on the device: what grammars allow in each line of the next step that samples."""
        return self._sampling.masks

    def decode(self, num_lines: int, variant: Variant, *, shared: bool = False) -> None:
        """A whole step in which the lines that the rows name compute one token each.

        Args:
            num_lines: of the step.
            variant: of its sampling.
            shared: whether attention makes use of the prefixes that the rows name.
        """
        size = _at_least(self._decode_sizes, num_lines)

        def work() -> None:
            self._decode_layers(size, shared)
            self._head(size, variant, of_chunks=False)

        self._run(_Key("decode", size, variant, shared), work)

    def forward_decode(self, num_lines: int, *, shared: bool = False) -> None:
        """The same up to the last layer."""
        size = _at_least(self._decode_sizes, num_lines)
        self._run(_Key("decode layers", size, shared=shared), lambda: self._decode_layers(size, shared))

    def begin_mixed(
        self, staging: Tensor, *, num_tokens: int, num_lines: int, num_decodes: int, num_samples: int
    ) -> None:
        """Make the input of a step with chunks from what is staged; see the kernel of this name."""
        size = self._mixed_size(num_tokens, num_decodes)
        begin_mixed(
            staging,
            self._rows.token,
            self._input.first(num_tokens=size, num_lines=self._max_rows, num_samples=self._max_lines),
            num_tokens=num_tokens,
            num_lines=num_lines,
            num_decodes=num_decodes,
            num_samples=num_samples,
        )

    def forward_mixed(self, num_tokens: int, arrays: StepArrays | None = None, *, shared: bool = False) -> None:
        """All layers over a step with chunks.

        Args:
            num_tokens: of the step.
            arrays: what the host knows of it; needed for steps that have no graph of their own.
            shared: whether attention makes use of the prefixes that the rows name.
        """
        num_decodes = 0 if arrays is None else arrays.num_decode_rows
        size = self._mixed_size(num_tokens, num_decodes)
        if size in self._mixed_sizes:
            self._run(_Key("mixed layers", size, shared=shared), lambda: self._mixed_layers(size, shared))
            return
        assert arrays is not None
        planned = self._runner.plan_prefill(arrays)
        if num_decodes:
            self._mixed_layers(size, shared, planned)
        else:
            self._large.run(size, planned)

    def sample(self, num_samples: int, variant: Variant, *, of_chunks: bool) -> None:
        """Head and sampling after one of the `forward` methods."""
        if not num_samples:
            return
        sizes = self._sample_sizes if of_chunks else self._decode_sizes
        size = _at_least(sizes, num_samples)
        what = "sample of chunks" if of_chunks else "sample of decodes"
        self._run(_Key(what, size, variant), lambda: self._head(size, variant, of_chunks=of_chunks))

    def capture(self, progress: Progress = no_progress) -> None:
        """Compile and capture what most steps need; everything else when it comes for the second time."""
        plain = Variant()
        work: list[Callable[[], None]] = []
        for shared in (False, True) if self._shares else (False,):
            work += [partial(self.decode, size, plain, shared=shared) for size in reversed(self._decode_sizes)]
            work += [partial(self.forward_mixed, size, shared=shared) for size in reversed(self._mixed_sizes)]
        work += [partial(self.sample, size, plain, of_chunks=True) for size in reversed(self._sample_sizes)]
        staging = torch.zeros(1, dtype=torch.int32, pin_memory=True)
        self.begin_mixed(staging, num_tokens=0, num_lines=0, num_decodes=0, num_samples=0)
        for index, piece in enumerate(work):
            piece()
            progress(index / len(work), f"graphs ({index} of {len(work)})")
        for variant in (Variant(filtered=True), Variant(logprobs=True), Variant(filtered=True, logprobs=True)):
            self.sample(1, variant, of_chunks=True)
        self._large.capture()
        self._forget_what_ran()

    def measure(self, context_s: float) -> TimedBudget | None:
        """Time the graphs of steps, of which nothing shows as no row runs yet; None where one was not captured.

        Args:
            context_s: see `TimedBudget`.
        """
        plain = Variant()
        parts = (
            {size: _Key("decode", size, plain) for size in self._decode_sizes},
            {size: _Key("mixed layers", size) for size in self._mixed_sizes},
            {size: _Key("sample of chunks", size, plain) for size in self._sample_sizes},
        )
        if any(key not in self._graphs for keys in parts for key in keys.values()):
            return None
        self._graphs[parts[1][self._mixed_sizes[-1]]].replay()  # wakes up a clock that has slowed down
        decode, layers, sample = (
            {size: gpu_seconds(self._graphs[key].replay) for size, key in keys.items()} for keys in parts
        )
        self._forget_what_ran()
        return TimedBudget(decode=decode, layers=layers, sample=sample, context_s=context_s)

    def _forget_what_ran(self) -> None:
        torch.cuda.synchronize()
        self._ring.step_counter.zero_()

    def _mixed_size(self, num_tokens: int, num_decodes: int) -> int:
        if num_tokens <= self._mixed_sizes[-1]:
            return _at_least(self._mixed_sizes, num_tokens)
        return num_tokens if num_decodes else self._large.size_for(num_tokens)

    def _decode_layers(self, size: int, shared: bool) -> None:
        step = self._input.first(num_tokens=size, num_lines=size, num_samples=size)
        rows = self._rows
        begin_decode(rows.line_rows, rows.token, rows.position, rows.page_table, step, page_size=self._runner.page_size)
        self._layers(step, num_decode_lines=size, has_chunks=False, has_graph=True, shared=shared)

    def _mixed_layers(self, size: int, shared: bool, planned: PlannedPrefill | None = None) -> None:
        step = self._input.first(num_tokens=size, num_lines=self._max_rows, num_samples=self._max_lines)
        lines, has_graph = min(size, self._max_rows), size in self._mixed_sizes
        self._layers(step, num_decode_lines=lines, has_chunks=True, has_graph=has_graph, shared=shared, planned=planned)

    def _large_layers(self, size: int, planned: PlannedPrefill | None) -> None:
        """Of chunks alone, in a step that has no graph of its own."""
        step = self._input.first(num_tokens=size, num_lines=self._max_rows, num_samples=self._max_lines)
        self._layers(step, num_decode_lines=0, has_chunks=True, has_graph=False, shared=False, planned=planned)

    def _layers(
        self,
        step: StepInput,
        *,
        num_decode_lines: int,
        has_chunks: bool,
        has_graph: bool,
        shared: bool,
        planned: PlannedPrefill | None = None,
    ) -> None:
        needs_blocks = has_chunks and (planned is None or self._runner.has_windows)
        batch = GpuBatch.of(
            step,
            self._rows.page_table,
            num_decode_lines=num_decode_lines,
            splits=self._runner.decode_splits(num_decode_lines, shared=shared),
            chunks=self._runner.chunk_blocks(step) if needs_blocks else None,
            shared=self._rows.prefixes if shared else None,
            planned=planned,
        )
        # a size without a graph comes when it likes, and requests would wait for the compiler
        self._runner.hidden(batch, self._hidden[: step.tokens.shape[0]], compiled=has_graph)

    def _head(self, size: int, variant: Variant, *, of_chunks: bool) -> None:
        step = self._input.first(num_tokens=self._max_tokens, num_lines=self._max_rows, num_samples=size)
        if of_chunks:
            logits = self._runner.logits(self._hidden, step.logit_rows)
        else:
            logits = self._runner.logits(self._hidden[:size], None)
        sample(
            logits,
            step.sample_rows,
            step.sampled_position,
            self._rows.state,
            self._sampling,
            ring=self._ring.records,
            step_counter=self._ring.step_counter,
            filtered=variant.filtered,
            logprobs=variant.logprobs,
        )

    def _run(self, key: _Key, work: Callable[[], None]) -> None:
        """Replay the graph of a piece of work, or run it and capture it for the next time."""
        graph = self._graphs.get(key)
        if graph is not None:
            graph.replay()
            return
        work()
        graph = torch.cuda.CUDAGraph()
        try:
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                work()
            finally:
                graph.capture_end()
        except RuntimeError:
            # The work is done already; without a graph the next one is only slower.
            logger.warning("%s cannot be captured as a graph", key, exc_info=True)
            return
        self._graphs[key] = graph


def _sizes(sizes: tuple[int, ...], most: int) -> list[int]:
    """The sizes below `most`, and `most`."""
    return [size for size in sizes if size < most] + [most]


def _at_least(sizes: list[int], needed: int) -> int:
    return sizes[bisect_left(sizes, needed)]
