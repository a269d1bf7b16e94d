"""A GPU that is none: the executor's GPU side on a CPU, kernels by Triton's interpreter, one stream, CUDA graphs.

What is queued is kept as calls with their arguments, as a GPU would have them: tensors by their memory, numbers as they
were. A graph is a list of such calls, so that a replay repeats what was launched while it was captured and asks no
Python code again. Memory that was allocated outside a stream, or pinned, is the host's: what is written to it is
written at once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import pytest
import torch
import triton.language as tl
import triton.runtime.interpreter as interpreter
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bough.common.telemetry import Telemetry
from bough.executor.engine import Engine
from bough.executor.gpu import ring, runner
from bough.executor.gpu.pipeline import GpuPipeline
from bough.executor.gpu.runner import GpuRunner
from bough.executor.observer import Observer
from bough.executor.runner import RunnerConfig
from bough.kernels.reference import TorchKernels
from tests.helpers.paged_attention import PagedTorchAttention
from tests.kernels.gpu.attention_cases import mended_interpreter

NUM_SMS = 4
_MEMORY_BYTES = 8 << 30
_CALL_MS = 0.01
_aten = torch.ops.aten
_READS = {_aten.item.default, _aten._local_scalar_dense.default, _aten.is_nonzero.default, _aten.equal.default}
"""What the host must wait for."""
_NO_WORK = {
    _aten.empty.memory_format,
    _aten.empty_like.default,
    _aten.empty_strided.default,
    _aten.new_empty.default,
    _aten.detach_.default,
}

Call = Callable[[], object]


class InterpretedGpu:
    """What is queued, and how far it has come. Use `interpreted_gpu`."""

    def __init__(self) -> None:
        self.lags = False
        """Works only while the host waits, as slow as a GPU can be; otherwise at once, as fast as one can be."""
        self.bursts = False
        """Once it works, it does all that is queued: the host sees the results of a step late, those of others too."""
        self.num_done = 0
        """Calls that have come to their end: the clock."""
        self.num_replays = 0
        self.stream: Stream | None = None
        """The current one."""
        self.capturing: list[Call] | None = None
        self._queue: deque[Call] = deque()
        self._works = False
        self._error: Exception | None = None
        self._of_host: dict[int, Tensor] = {}

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued."""
        self._check()
        return not self._queue

    def queue(self, call: Call) -> None:
        """Have something done after all that was queued before, or by the graph that is being captured."""
        self._check()
        if self.capturing is not None:
            self.capturing.append(call)
            return
        self._queue.append(call)
        if not self.lags:
            self.finish()

    def finish(self) -> None:
        """Do all that is queued."""
        self._check()
        # No RuntimeError, for which the executor would do without the graph.
        assert self.capturing is None, "the host waits for a stream that is being captured"
        while self._queue:
            self._work()

    def sleep(self, seconds: float) -> None:
        """Stands for `time.sleep` of a host that waits for results."""
        self._check()
        assert self._queue, "the host waits for what was never queued"
        self._work()
        while self.bursts and self._queue:
            self._work()

    def allocating(self, allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The same, with a note of what is the host's."""

        def allocated(*args: Any, pin_memory: bool = False, **kwargs: Any) -> Tensor:
            tensor = allocate(*args, **kwargs)
            if pin_memory or self.stream is None:
                self._of_host[_memory(tensor)] = tensor
            return tensor

        return allocated

    def launch(self, run: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        """Queue a kernel."""
        assert self.stream is not None, "a kernel is launched on the default stream, in no order with the others"
        self.queue(partial(run, *args, **kwargs))

    def operate(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operation of torch on the current stream.

        What it returns has its final shape and memory at once, and its final values when the stream has come there.
        """
        if self._works or func in _NO_WORK:
            return func(*args, **kwargs)
        if func in _READS:
            self.finish()
            return func(*args, **kwargs)
        written = _written(func, args, kwargs)
        if written:
            if _memory(written[0]) in self._of_host:
                return func(*args, **kwargs)
            self.queue(partial(func, *args, **kwargs))
            return written[0] if len(func._schema.returns) == 1 else None
        result = func(*args, **kwargs)
        inputs = {_memory(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if any(_memory(output) in inputs for output in outputs):
            if not _is_transfer(func, kwargs):
                return result
            result = result.clone()
            outputs = [result]
        if outputs and (self.lags or self.capturing is not None):
            self.queue(partial(_repeat, outputs, func, args, kwargs))
        return result

    def _work(self) -> None:
        """Do what was queued first. An error shows now, wherever the host is, and from now on everywhere."""
        call = self._queue.popleft()
        self._works = True
        try:
            with torch.inference_mode(), np.errstate(all="ignore"):  # a GPU does not warn
                call()
        except Exception as error:
            self._error = error
            raise
        finally:
            self._works = False
        self.num_done += 1

    def _check(self) -> None:
        if self._error is not None:
            raise RuntimeError("the GPU has stopped") from self._error


class Stream:
    """Stands for `torch.cuda.Stream`."""

    def __init__(self, gpu: InterpretedGpu) -> None:
        self._gpu = gpu

    def query(self) -> bool:
        return self._gpu.is_idle

    def synchronize(self) -> None:
        self._gpu.finish()


class Event:
    """Stands for `torch.cuda.Event`; every call takes the same time."""

    def __init__(self, gpu: InterpretedGpu) -> None:
        self._gpu = gpu
        self._time: int | None = None
        self._is_recorded = False

    def record(self) -> None:
        self._time, self._is_recorded = None, True
        self._gpu.queue(self._note)

    def query(self) -> bool:
        return not self._is_recorded or self._time is not None

    def synchronize(self) -> None:
        while not self.query():
            self._gpu.sleep(0.0)

    def elapsed_time(self, other: Event) -> float:
        assert self._time is not None and other._time is not None
        return (other._time - self._time) * _CALL_MS

    def _note(self) -> None:
        self._time = self._gpu.num_done


class Graph:
    """Stands for `torch.cuda.CUDAGraph`."""

    def __init__(self, gpu: InterpretedGpu) -> None:
        self._gpu = gpu
        self._calls: list[Call] = []

    def capture_begin(self, pool: object, capture_error_mode: str) -> None:
        assert self._gpu.stream is not None and self._gpu.capturing is None
        self._gpu.capturing = self._calls

    def capture_end(self) -> None:
        assert self._gpu.capturing is self._calls
        self._gpu.capturing = None

    def replay(self) -> None:
        assert self._gpu.stream is not None and self._gpu.capturing is None
        self._gpu.num_replays += 1
        for call in self._calls:
            self._gpu.queue(call)


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Shows the GPU what torch does."""

    def __init__(self, gpu: InterpretedGpu) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._gpu.operate(func, args, kwargs or {})


@contextmanager
def patched_once() -> Iterator[None]:
    """The interpreter patches the language anew at each call of a function within a kernel, most of the time it takes.

    Here it does so once.
    """
    patch_lang = interpreter._patch_lang
    scopes: dict[frozenset[int], Any] = {}
    seen: set[Any] = set()

    def patch_first(fn: Any) -> Any:
        if fn not in seen:
            seen.add(fn)
            languages = frozenset(id(value) for value in fn.__globals__.values() if value is tl or value is tl.core)
            if languages not in scopes:
                scopes[languages] = patch_lang(fn)
        return interpreter._LangPatchScope()

    with patch.object(interpreter, "_patch_lang", patch_first):
        yield
    for scope in reversed(scopes.values()):
        scope.restore()


@contextmanager
def interpreted_gpu(*, layers: Literal["torch", "kernels"] = "torch") -> Iterator[InterpretedGpu]:
    """While this lasts, what torch has for GPUs is that of an `InterpretedGpu`, whose memory is on the CPU.

    Args:
        layers: whether layers run in plain torch or by the kernels they have on a GPU, which takes seconds a step;
            sampling and what makes a step's input are kernels always.
    """
    gpu = InterpretedGpu()
    num_threads = torch.get_num_threads()
    run_grid = interpreter.GridExecutor.__call__

    @contextmanager
    def on_stream(stream: Stream) -> Iterator[None]:
        before, gpu.stream = gpu.stream, stream
        try:
            with _Operations(gpu):
                yield
        finally:
            gpu.stream = before

    properties = SimpleNamespace(multi_processor_count=NUM_SMS, total_memory=_MEMORY_BYTES)
    with pytest.MonkeyPatch.context() as patches, mended_interpreter(), patched_once():
        patches.setattr(
            interpreter.GridExecutor,
            "__call__",
            lambda grid, *args, **kwargs: gpu.launch(run_grid, grid, *args, **kwargs),
        )
        patches.setattr(ring, "time", SimpleNamespace(sleep=gpu.sleep, monotonic=time.monotonic))
        for name in ("empty", "zeros"):
            patches.setattr(torch, name, gpu.allocating(getattr(torch, name)))
        for name, stand_in in {
            "CUDAGraph": _class_of(Graph, gpu),
            "Event": _class_of(Event, gpu),
            "Stream": _class_of(Stream, gpu),
            "empty_cache": lambda: None,
            "get_device_capability": lambda device: (8, 0),
            "get_device_properties": lambda device: properties,
            "graph_pool_handle": lambda: (0, 1),
            "max_memory_allocated": lambda device: 0,
            "mem_get_info": lambda device: (_MEMORY_BYTES, _MEMORY_BYTES),
            "memory_allocated": lambda device: 0,
            "reset_peak_memory_stats": lambda device: None,
            "stream": on_stream,
            "synchronize": lambda device=None: gpu.finish(),
        }.items():
            patches.setattr(torch.cuda, name, stand_in)
        if layers == "torch":
            patches.setattr(runner, "GpuKernels", lambda device, pdl: TorchKernels())
            patches.setattr(runner, "GpuAttention", lambda decode, prefill: PagedTorchAttention())
        torch.set_num_threads(1)  # what there is to compute is too small to be shared
        try:
            yield gpu
        finally:
            torch.set_num_threads(num_threads)


def make_interpreted_engine(model_dir: Path, *, eos: Sequence[int] = (), **fields: Any) -> Engine:
    """An engine on the GPU of `interpreted_gpu`, its cache empty; chunks beside decodes have all of its token budget.

    In float32: the interpreter cuts off where bfloat16 is rounded.
    """
    config: dict[str, Any] = {"num_pages": 40, "max_rows": 4, "token_budget": 24, "max_context": 256, **fields}
    runner_config = RunnerConfig(model_dir=model_dir, dtype="float32", attention_prefill="triton", **config)
    gpu_runner = GpuRunner.load(runner_config, torch.device("cpu"))
    return Engine(
        gpu_runner,
        eos_token_ids=eos,
        max_rows=config["max_rows"],
        token_budget=config["token_budget"],
        mixed_token_budget=config["token_budget"],
        observer=Observer(Telemetry("executor")),
        make_pipeline=lambda table: GpuPipeline(gpu_runner, table, eos_token_ids=eos),
    )


def _class_of(stand_in: type[Stream | Event | Graph], gpu: InterpretedGpu) -> type:
    """A class, for there are annotations that name it, whose objects are made as torch's are."""

    def init(self: Any, *args: object, **options: object) -> None:
        stand_in.__init__(self, gpu)

    return type(stand_in.__name__, (stand_in,), {"__init__": init})


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The arguments that an operation writes to."""
    if not func._schema.is_mutable:
        return []
    found = []
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found.append(args[index] if index < len(args) else kwargs[argument.name])
    return found


def _is_transfer(func: Any, kwargs: dict[str, Any]) -> bool:
    """Whether it is a copy between host and device, which are one here; all of the executor's do not wait."""
    return func.overloadpacket is _aten.to and bool(kwargs.get("non_blocking"))


def _repeat(outputs: list[Tensor], func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Write what an operation returns to where it was promised."""
    results = [leaf for leaf in tree_leaves(func(*args, **kwargs)) if isinstance(leaf, Tensor)]
    for output, result in zip(outputs, results, strict=True):
        output.copy_(result)
