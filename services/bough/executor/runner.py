"""The model on its device: loads weights, sizes the page pool by measurement, runs steps."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from bough.executor.attention.base import AttentionBackend
from bough.executor.attention.native_backend import MAX_HEAD_DIM, NativeAttention, native_step
from bough.executor.attention.torch_backend import TorchAttention
from bough.executor.batch import ForwardBatch
from bough.executor.kvcache import KVCache, KVCacheLayout
from bough.executor.layers.weights import BuildContext
from bough.executor.loader import Checkpoint, DummyWeights, Progress, no_progress
from bough.executor.models.config import ModelConfig, ModelError
from bough.executor.models.llama import LlamaForCausalLM
from bough.executor.models.registry import build_model, check_supported
from bough.executor.resources import available_cores, available_memory_bytes, resident_peak_bytes
from bough.kernels.cpu.build import BuildError
from bough.kernels.cpu.native import WIDTH_MULTIPLE, NativeKernels, OpRunner
from bough.kernels.cpu.program import Program
from bough.kernels.interface import Kernels
from bough.kernels.reference import TorchKernels

_log = logging.getLogger(__name__)

_LOAD_SHARE = 0.8
"""Part of the progress bar that loading weights takes; profile and warm-up share the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerConfig:
    """How to serve a model directory."""

    model_dir: Path
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of weights, activations and cache; `auto` takes the checkpoint's."""
    max_rows: int = 256
    """Rows that may share a step."""
    token_budget: int = 2048
    """Query tokens that may share a step."""
    max_context: int | None = None
    """Tokens a sequence may have; None takes the model's limit."""
    num_pages: int | None = None
    """Pages of the KV pool; None measures what fits."""
    num_threads: int | None = None
    """Compute threads; None takes the physical cores this process may use."""
    backend: Literal["auto", "native", "torch"] = "auto"
    """Implementation of the operations on a CPU; `auto` takes native where it can be built."""
    load_format: Literal["auto", "dummy"] = "auto"
    """`dummy` makes random weights up, for measurements."""
    attention_prefill: Literal["auto", "triton", "flashinfer"] = "auto"
    """Attention of large prefills on a GPU; `auto` takes FlashInfer where it is there and known to be faster."""
    compile: Literal["off", "default", "max-autotune"] = "off"
    """How torch.compile makes what lies between attentions on a GPU, for steps of 5 to 512 tokens."""


class LoadedModel:
    """What every runner says of its model; a runner sets both in its `__init__`."""

    model_config: ModelConfig
    layout: KVCacheLayout

    @property
    def page_size(self) -> int:
        """Tokens in a page."""
        return self.layout.page_size

    @property
    def vocab_size(self) -> int:
        """Columns of the logits."""
        return self.model_config.vocab_size

    @property
    def context_cost(self) -> float:
        """See `ModelConfig.context_cost`."""
        return self.model_config.context_cost


class ModelRunner(LoadedModel):
    """Runs forward passes. Not thread-safe: one thread loads and steps."""

    def __init__(self, config: RunnerConfig, model: LlamaForCausalLM, layout: KVCacheLayout, backend: _Backend) -> None:
        self.config = config
        self.model_config: ModelConfig = model.config
        self.layout = layout
        self.backend = backend.kernels.name
        """Name of the implementation in use: native or torch."""
        self.max_context = max_context_of(config, model.config)
        self._model = model
        self._backend = backend
        self._cache = KVCache(layout, 1)
        self._program: Program | None = None

    @classmethod
    def load(cls, config: RunnerConfig, progress: Progress = no_progress) -> ModelRunner:
        """Load the weights, measure, allocate the page pool and warm up.

        Args:
            config: what to serve and how.
            progress: called with the fraction done and what is being done.

        Raises:
            ModelError: the directory lacks something, is not supported, or leaves no memory for a single sequence.
        """
        model_config = ModelConfig.read(config.model_dir)
        check_supported(model_config)
        num_threads = config.num_threads or available_cores()
        dtype: torch.dtype = getattr(torch, model_config.dtype if config.dtype == "auto" else config.dtype)
        backend = _choose_backend(config, model_config, num_threads)
        # beside native operations torch does small things only, and its waiting threads would spin on their cores
        torch.set_num_threads(1 if backend.ops is not None else num_threads)
        with torch.inference_mode(), _checkpoint(config, dtype, progress) as weights:
            build = BuildContext(
                weights=weights,
                kernels=backend.kernels,
                attention=backend.attention,
                max_context=max_context_of(config, model_config),
            )
            model = build_model(model_config, build)
        layout = KVCacheLayout.of(model_config, dtype)
        runner = cls(config, model, layout, backend)
        progress(_LOAD_SHARE, "measuring memory")
        num_pages = config.num_pages or runner._measure_pages()
        runner._allocate(num_pages)
        progress(0.9, "warming up")
        runner._warm_up()
        progress(1.0, "ready")
        return runner

    @property
    def num_pages(self) -> int:
        """Pages of the pool."""
        return self._cache.num_pages

    @torch.inference_mode()
    def forward(self, batch: ForwardBatch) -> Tensor:
        """Run a step: logits [S, vocab] float32 of the batch's `logit_rows`, keys and values written to the pages."""
        if self._program is None:
            return self._model.forward(batch, self._cache)
        return self._program.run(native_step(batch))

    @torch.inference_mode()
    def copy_pages(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy whole pages before a step; targets are distinct and none of them is a source."""
        self._cache.copy_pages(sources, targets)

    @torch.inference_mode()
    def _allocate(self, num_pages: int) -> None:
        """Make the pages, and record the native program that works on them."""
        self._program = None
        self._cache = KVCache(self.layout, num_pages)
        ops = self._backend.ops
        if ops is None:
            return
        ops.recording = []
        self._model.forward(_chunk_batch(2, self.page_size), self._cache)
        self._program = Program(ops, ops.recording, self.vocab_size)
        ops.recording = None

    def _measure_pages(self) -> int:
        """Pages that fit beside the largest step, at most what all rows can fill.

        The step runs first, so that what it needs is already taken when the rest is counted. As much is left free
        again for a later step, and a tenth for what else runs on the machine, which may only be starting.
        """
        cap = self.config.max_rows * -(-self.max_context // self.page_size)
        before = resident_peak_bytes()
        num_tokens = min(self.config.token_budget, self.max_context)
        self._allocate(-(-num_tokens // self.page_size))
        self._run_largest(num_tokens)
        reserve = max(0, resident_peak_bytes() - before)
        fitting = (available_memory_bytes() * 9 // 10 - reserve) // self.layout.page_bytes
        needed = -(-self.max_context // self.page_size)
        if fitting < needed:
            raise ModelError(
                f"{self.config.model_dir}: memory for {max(0, fitting)} KV pages is left, one sequence of max_context "
                f"= {self.max_context} tokens needs {needed}; lower max_context or use a smaller model"
            )
        return min(cap, fitting)

    def _warm_up(self) -> None:
        """Take the memory that steps need, and run small ones, so that the first request is as fast as the next."""
        if self._program is not None:
            self._program.reserve(max(self.config.token_budget, self.config.max_rows))
        self._run_largest(min(self.config.token_budget, 64))

    def _run_largest(self, num_tokens: int) -> None:
        """One row with `num_tokens` tokens, then a step of decode rows, as large as a step may get."""
        num_tokens = min(num_tokens, self.num_pages * self.page_size)
        self.forward(_chunk_batch(num_tokens, self.page_size))
        self.forward(_decode_batch(self.config.max_rows))


def max_context_of(config: RunnerConfig, model: ModelConfig) -> int:
    """Tokens that a sequence may have."""
    return min(config.max_context or model.max_position, model.max_position)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Backend:
    """Implementations that work together."""

    kernels: Kernels
    attention: AttentionBackend
    ops: OpRunner | None
    """Runs native operations; None for plain torch."""


def _choose_backend(config: RunnerConfig, model: ModelConfig, num_threads: int) -> _Backend:
    """Native operations where they can be had, plain torch otherwise.

    Raises:
        ModelError: native ones were asked for by name and cannot be had.
    """
    if config.backend != "torch":
        try:
            _check_native_shapes(model)
            ops = OpRunner(num_threads=num_threads)
            return _Backend(kernels=NativeKernels(ops), attention=NativeAttention(ops), ops=ops)
        except (BuildError, ModelError) as error:
            if config.backend == "native":
                raise ModelError(f"backend = 'native' cannot be used: {error}; accepted: 'auto', 'torch'") from None
            _log.warning("native operations cannot be used, plain torch is several times slower: %s", error)
    return _Backend(kernels=TorchKernels(), attention=TorchAttention(), ops=None)


def _check_native_shapes(model: ModelConfig) -> None:
    if model.head_dim > MAX_HEAD_DIM:
        raise ModelError(f"config.json: head_dim = {model.head_dim}, native attention takes up to {MAX_HEAD_DIM}")
    for name in ("hidden_size", "intermediate_size", "head_dim"):
        if getattr(model, name) % WIDTH_MULTIPLE:
            raise ModelError(f"config.json: {name} = {getattr(model, name)} is no multiple of {WIDTH_MULTIPLE}")


def _checkpoint(config: RunnerConfig, dtype: torch.dtype, progress: Progress) -> Checkpoint | DummyWeights:
    if config.load_format == "dummy":
        return DummyWeights(dtype, torch.device("cpu"))
    return Checkpoint(config.model_dir, dtype, lambda fraction, what: progress(fraction * _LOAD_SHARE, what))


def _chunk_batch(num_tokens: int, page_size: int) -> ForwardBatch:
    """One row that computes its whole context in pages 0, 1, 2, ..."""
    num_pages = -(-num_tokens // page_size)
    return ForwardBatch(
        tokens=torch.zeros(num_tokens, dtype=torch.int64),
        positions=torch.arange(num_tokens),
        slots=torch.arange(num_tokens),
        query_start=torch.tensor([0, num_tokens], dtype=torch.int32),
        context_lens=torch.tensor([num_tokens], dtype=torch.int32),
        page_table=torch.arange(num_pages, dtype=torch.int32).unsqueeze(0),
        num_decode_rows=0,
        logit_rows=torch.tensor([num_tokens - 1]),
    )


def _decode_batch(num_rows: int) -> ForwardBatch:
    """Rows with one token each, all in page 0: what they compute does not matter."""
    zeros = torch.zeros(num_rows, dtype=torch.int64)
    return ForwardBatch(
        tokens=zeros,
        positions=zeros,
        slots=zeros,
        query_start=torch.arange(num_rows + 1, dtype=torch.int32),
        context_lens=torch.ones(num_rows, dtype=torch.int32),
        page_table=torch.zeros(num_rows, 1, dtype=torch.int32),
        num_decode_rows=num_rows,
        logit_rows=torch.arange(num_rows),
    )
