"""The model on a GPU: loads weights, sizes the page pool by measurement, runs layers and head."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from bough.executor.attention.flashinfer_backend import choose_prefill
from bough.executor.attention.gpu_backend import GpuAttention
from bough.executor.attention.prefill import PlannedPrefill, PrefillPlanner, chunk_pages
from bough.executor.gpu.batch import GpuBatch
from bough.executor.gpu.compiled_layers import CompiledLayers
from bough.executor.gpu.kvcache import PagedCache
from bough.executor.gpu.timing import gpu_seconds
from bough.executor.gpu.transfer import to_device
from bough.executor.kvcache import KVCacheLayout
from bough.executor.layers.weights import BuildContext
from bough.executor.loader import Checkpoint, DummyWeights, Progress, no_progress
from bough.executor.models.config import ModelConfig, ModelError
from bough.executor.models.llama import LlamaForCausalLM
from bough.executor.models.registry import build_model, check_supported
from bough.executor.pipeline.base import DeviceFailedError
from bough.executor.runner import LoadedModel, RunnerConfig, max_context_of
from bough.executor.step import StepArrays
from bough.kernels.gpu.attention_checks import AttentionShape
from bough.kernels.gpu.attention_decode_split import DecodeSplits, choose_splits, decode_workspace
from bough.kernels.gpu.attention_prefill_plan import PrefillPlan, plan_prefill
from bough.kernels.gpu.attention_prefill_split import (
    choose_prefill_config,
    choose_prefill_splits,
    prefill_workspace,
)
from bough.kernels.gpu.compiled import CompiledBlock, CompileError
from bough.kernels.gpu.operations import GpuKernels
from bough.kernels.gpu.rows import StepInput

logger = logging.getLogger(__name__)

_LOAD_SHARE = 0.6
_SPARE_BYTES = 1 << 30
"""Left for what the profile run does not see: graphs, cuBLAS workspaces, fragments."""
_MAX_HEAD_DIM = 256
_LEAST_SHARED_LINES = 16
_READ_BYTES = 1 << 30
_DRAFT_LINES = 256
"""Tokens that layers bound by the reading of weights compute in hardly more time than a few."""


class GpuRunner(LoadedModel):
    """Runs layers and head on one GPU. Not thread-safe: one thread loads and steps.

    Args:
        config: What is served and how.
        model: With its weights on the device.
        layout: Of the page pool.
        device: The GPU.
        stream: On which everything runs.
    """

    def __init__(
        self,
        config: RunnerConfig,
        model: LlamaForCausalLM,
        layout: KVCacheLayout,
        device: torch.device,
        stream: torch.cuda.Stream,
    ) -> None:
        self.config = config
        self.model_config = model.config
        self.layout = layout
        self.device = device
        self.max_context = max_context_of(config, model.config)
        self.token_budget = config.token_budget
        self.max_lines = _max_lines(config)
        """Lines of logits in a step at most."""
        self._stream = stream
        self._model = model
        self.num_sms = torch.cuda.get_device_properties(device).multi_processor_count
        self._cache = PagedCache(layout, 1, device)
        self._prefill: PrefillPlanner | None = None
        self._compiled: CompiledLayers | None = None
        if config.compile != "off":
            self._compiled = CompiledLayers(model, CompiledBlock(config.compile))

    @classmethod
    def load(cls, config: RunnerConfig, device: torch.device, progress: Progress = no_progress) -> GpuRunner:
        """Load the weights, measure, and allocate the page pool.

        Args:
            config: what to serve and how.
            device: the GPU.
            progress: called with the fraction done and what is being done.

        Raises:
            ModelError: the directory lacks something, is not supported, or leaves no memory for a single sequence.
        """
        model_config = ModelConfig.read(config.model_dir)
        check_supported(model_config)
        if model_config.head_dim > _MAX_HEAD_DIM or model_config.head_dim % 16:
            raise ModelError(
                f"config.json: head_dim = {model_config.head_dim}; multiples of 16 up to {_MAX_HEAD_DIM} are accepted"
            )
        dtype: torch.dtype = getattr(torch, model_config.dtype if config.dtype == "auto" else config.dtype)
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        with torch.inference_mode(), torch.cuda.stream(stream):
            try:
                model = _load_model(config, model_config, dtype, device, progress)
            except torch.OutOfMemoryError as error:
                raise ModelError(_too_large(config.model_dir, device, "its weights")) from error
            layout = KVCacheLayout.of(model_config, dtype)
            runner = cls(config, model, layout, device, stream)
            runner._prefill = choose_prefill(config.attention_prefill, model_config, dtype, device)
            progress(_LOAD_SHARE, "measuring memory")
            runner._allocate()
        return runner

    @property
    def attention_shape(self) -> AttentionShape:
        """Sizes of the heads."""
        return _attention_shape(self.model_config)

    @property
    def plans_prefill(self) -> bool:
        """Attention to chunks of steps without a graph is planned on the host, but for layers with a window."""
        return self._prefill is not None

    @property
    def has_windows(self) -> bool:
        """Some layers have a window."""
        return any(window is not None for window in self.model_config.windows)

    @property
    def num_pages(self) -> int:
        """Pages of the pool."""
        return self._cache.num_pages

    @contextmanager
    def on_stream(self) -> Iterator[None]:
        """Everything inside runs in the order of the runner's stream."""
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            yield

    def check(self) -> None:
        """Look, without waiting, whether the GPU still works.

        Raises:
            DeviceFailedError: it does not.
        """
        try:
            self._stream.query()
        except Exception as error:
            raise _device_failed(error) from error

    def check_after(self, failure: Exception) -> None:
        """Wait for all that is queued, to tell a GPU that has failed from a call that could not be made.

        An illegal access or a failed assertion in a kernel makes every later call on the device fail, this one
        included; running out of memory does not.

        Args:
            failure: why this is asked.

        Raises:
            DeviceFailedError: from `failure`: the GPU does not work any more.
        """
        try:
            self._stream.synchronize()
        except Exception as error:
            raise _device_failed(error) from failure

    def decode_splits(self, num_lines: int, *, shared: bool = False) -> DecodeSplits:
        """How decode attention cuts the contexts of so many lines, or what follows prefixes that they share.

        The latter is short as a rule, and each way to cut is a kernel more to compile.
        """
        return _decode_splits(num_lines, shared, self.model_config.num_kv_heads, self.num_sms)

    def context_seconds(self) -> float:
        """Seconds in which a token of a context is read in all layers, at the rate of one large read; waits for it."""
        keys = self._cache.layers[0].keys.view(torch.float32).flatten()[: _READ_BYTES // 4]
        token_bytes = self.layout.page_bytes / self.page_size
        return gpu_seconds(keys.sum) * token_bytes / (4 * keys.numel())

    def chunk_blocks(self, step: StepInput) -> PrefillPlan:
        """Queue what finds the blocks of a step's chunks, for the attention of all layers."""
        shape, dtype, num_tokens = self.attention_shape, self.layout.dtype, step.tokens.shape[0]
        config = choose_prefill_config(shape, num_tokens, dtype)
        splits = choose_prefill_splits(num_tokens, shape.num_kv_heads, shape.group, config, self.num_sms)
        return plan_prefill(
            step.rows, step.query_start, step.chunk_lens,
            num_tokens=num_tokens, shape=shape, dtype=dtype, splits=splits, config=config,
        )  # fmt: skip

    def plan_prefill(self, arrays: StepArrays) -> PlannedPrefill | None:
        """The plan of a step's chunks, where attention to them is planned on the host."""
        return None if self._prefill is None else self._prefill.plan(chunk_pages(arrays, self.page_size))

    def hidden(self, batch: GpuBatch, out: Tensor, *, compiled: bool = False) -> None:
        """Run all layers over a step.

        Args:
            batch: the step.
            out: [T, hidden], gets the residual stream before the final norm.
            compiled: whether the setting `compile` holds for it; its number of tokens is compiled when first seen.

        Raises:
            ModelError: it cannot be compiled.
        """
        if self._compiled is None or not compiled or not self._compiled.takes(out.shape[0]):
            self._model.hidden(batch, self._cache, out)
            return
        try:
            self._compiled.hidden(batch, self._cache, out)
        except CompileError as error:
            wanted = self.config.compile
            raise ModelError(f"compile = '{wanted}' cannot be used: {error}; 'off' needs no compiler") from error

    def logits(self, hidden: Tensor, rows: Tensor | None) -> Tensor:
        """Logits [S, vocab] float32 of rows of `hidden`; None for all of them."""
        return self._model.logits(hidden, rows)

    def copy_pages(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy whole pages before a step; targets are distinct and none of them is a source."""
        self._cache.copy_pages(
            to_device(sources, torch.int64, self.device), to_device(targets, torch.int64, self.device)
        )

    def _allocate(self) -> None:
        """Make the pool: as many pages as fit beside the largest step, which runs to see what it needs."""
        cap = self.config.max_rows * -(-self.max_context // self.page_size)
        given = self.config.num_pages
        try:
            num_pages = min(cap, self._measure_pages()) if given is None else given
            self._cache = PagedCache(self.layout, num_pages, self.device)
        except torch.OutOfMemoryError as error:
            if given is None:
                raise ModelError(_too_large(self.config.model_dir, self.device, "a step or its KV pages")) from error
            size, total = given * self.layout.page_bytes / 1e9, _gpu_bytes(self.device) / 1e9
            raise ModelError(
                f"kv_pages = {given}: they need {size:.1f} GB, which does not fit beside the weights into the "
                f"{total:.0f} GB of the GPU; lower kv_pages, or leave it out to have it measured"
            ) from error

    def _measure_pages(self) -> int:
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        num_tokens = min(self.token_budget, self.max_context)
        num_profile_pages = -(-num_tokens // self.page_size)
        self._cache = PagedCache(self.layout, num_profile_pages, self.device)
        self._run_largest(num_tokens)
        torch.cuda.synchronize(self.device)
        peak = torch.cuda.max_memory_allocated(self.device) - before - num_profile_pages * self.layout.page_bytes
        self._cache = PagedCache(self.layout, 1, self.device)
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(self.device)
        # What sampling holds comes later: counts and bias of the rows; logits, their copy and a spare of the lines.
        sampling = (2 * self.config.max_rows + 3 * self.max_lines) * self.vocab_size * 4
        spare = _SPARE_BYTES + total // 50
        fitting = (free - peak - sampling - spare) // self.layout.page_bytes
        needed = -(-self.max_context // self.page_size)
        if fitting < needed:
            raise ModelError(
                f"{self.config.model_dir}: memory for {max(0, fitting)} KV pages is left on the GPU, one sequence of "
                f"max_context = {self.max_context} tokens needs {needed}; lower max_context, token_budget or max_rows, "
                "or use a smaller model"
            )
        logger.info(
            "%.1f GB free of %.1f, a step needs %.2f: %d pages fit", free / 1e9, total / 1e9, peak / 1e9, fitting
        )
        return fitting

    def _run_largest(self, num_tokens: int) -> None:
        """One row with so many tokens, and as many lines of logits as there may be."""
        step = StepInput.empty(max_tokens=num_tokens, max_lines=1, max_samples=1, device=self.device)
        torch.arange(num_tokens, out=step.positions)
        torch.arange(num_tokens, out=step.slots)
        step.query_start[1] = num_tokens
        step.chunk_lens[0] = num_tokens
        pages = torch.arange(-(-num_tokens // self.page_size), dtype=torch.int32, device=self.device).unsqueeze(0)
        batch = GpuBatch.of(step, pages, num_decode_lines=0, splits=DecodeSplits(1, 64), chunks=self.chunk_blocks(step))
        hidden = torch.empty(num_tokens, self.model_config.hidden_size, dtype=self.layout.dtype, device=self.device)
        self.hidden(batch, hidden)
        rows = torch.zeros(self.max_lines, dtype=torch.int64, device=self.device)
        self.logits(hidden, rows)


def _load_model(
    config: RunnerConfig, model_config: ModelConfig, dtype: torch.dtype, device: torch.device, progress: Progress
) -> LlamaForCausalLM:
    source: Checkpoint | DummyWeights
    if config.load_format == "dummy":
        source = DummyWeights(dtype, device)
    else:
        source = Checkpoint(
            config.model_dir, dtype, lambda fraction, what: progress(fraction * _LOAD_SHARE, what), device
        )
    num_kv_heads, max_rows = model_config.num_kv_heads, config.max_rows
    num_sms = torch.cuda.get_device_properties(device).multi_processor_count
    parts = decode_parts(max_rows, num_kv_heads, num_sms)
    workspace = decode_workspace(max_rows, model_config.num_heads, num_kv_heads, model_config.head_dim, parts, device)
    prefill = prefill_workspace(_attention_shape(model_config), max_rows, dtype, num_sms, device)
    pdl = torch.cuda.get_device_capability(device) >= (9, 0)
    with source as weights:
        build = BuildContext(
            weights=weights,
            kernels=GpuKernels(device, pdl=pdl),
            attention=GpuAttention(workspace, prefill),
            max_context=max_context_of(config, model_config),
            device=device,
        )
        return build_model(model_config, build)


def _max_lines(config: RunnerConfig) -> int:
    """One for each row; where those are few, more of them for drafts."""
    return max(config.max_rows, min(_DRAFT_LINES, config.token_budget))


def _decode_splits(num_lines: int, shared: bool, num_kv_heads: int, num_sms: int) -> DecodeSplits:
    return choose_splits(max(num_lines, _LEAST_SHARED_LINES if shared else 1), num_kv_heads, num_sms)


def decode_parts(max_rows: int, num_kv_heads: int, num_sms: int) -> int:
    """Parts a line that a workspace for so many lines must have room for, so that it serves every number of them."""
    most = max(
        lines * _decode_splits(lines, shared, num_kv_heads, num_sms).num_splits
        for lines in range(1, max_rows + 1)
        for shared in (False, True)
    )
    return max(2, -(-most // max_rows))


def _attention_shape(config: ModelConfig) -> AttentionShape:
    return AttentionShape(config.num_heads, config.num_kv_heads, config.head_dim)


def _too_large(model_dir: Path, device: torch.device, what: str) -> str:
    total = _gpu_bytes(device) / 1e9
    return (
        f"{model_dir}: {what} do not fit into the {total:.0f} GB of the GPU; lower max_rows, token_budget or "
        "max_context, or use a smaller model"
    )


def _device_failed(error: Exception) -> DeviceFailedError:
    # CUDA's errors go on for lines about how to debug them.
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return DeviceFailedError(f"the GPU has failed: {reason}; the executor ends")


def _gpu_bytes(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).total_memory)
