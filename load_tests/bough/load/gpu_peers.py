"""The other engines on a GPU: each in processes of its own, from a folder of its own, with the settings it is known by.

What is on Python's path there is the peer's folder alone (and what its interpreter has); none of it is imported here.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bough.load.bough_server import RunningServer, ready_server
from bough.load.children import Worker, worker

SERVED = "bench"
_PROGRAMS = Path(__file__).parent / "peers"
_START_TIMEOUT_S = 400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """How to run an engine."""

    name: str
    program: str
    """The worker below `peers/`."""
    options: Mapping[str, Any]
    """Of its offline engine."""
    server: Sequence[str]
    """Words after the interpreter that start its server; the model, the name and the port follow."""
    model_flag: str
    environment: Mapping[str, str]

    def variables(self, site: Path) -> dict[str, str]:
        """Environment of its processes, when it is installed in the folder `site`."""
        found = {name: text.format(site=site) for name, text in self.environment.items()}
        return {"PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1", **found}

    @asynccontextmanager
    async def offline(self, model_dir: Path, site: Path, log: Path) -> AsyncIterator[Worker]:
        """Its engine without a server, ready."""
        command = [sys.executable, str(_PROGRAMS / self.program), str(model_dir)]
        command.append(json.dumps(self._with_format(model_dir)))
        # It is alone on the GPU, so that it need not be stopped when it waits.
        async with worker(command, log, self.variables(site), pauses=False) as engine:
            await engine.wait_ready(_START_TIMEOUT_S)
            yield engine

    def serving(self, model_dir: Path, site: Path, port: int, log: Path) -> AbstractAsyncContextManager[RunningServer]:
        """Its OpenAI server, ready once entered."""
        command = [sys.executable, "-P", *self.server, self.model_flag, str(model_dir)]
        command += ["--served-model-name", SERVED, "--host", "127.0.0.1", "--port", str(port)]
        if not has_weights(model_dir):
            command += ["--load-format", "dummy"]
        return ready_server(command, "/health", port, log, self.variables(site))

    def _with_format(self, model_dir: Path) -> dict[str, Any]:
        return dict(self.options) | ({} if has_weights(model_dir) else {"load_format": "dummy"})


def has_weights(model_dir: Path) -> bool:
    """Whether a model directory has weights to load; an engine makes them up otherwise."""
    return any(model_dir.glob("*.safetensors"))


VLLM = Peer(
    name="vllm",
    program="vllm_offline.py",
    options={"max_num_seqs": 512, "gpu_memory_utilization": 0.85},
    server=("-m", "vllm.entrypoints.openai.api_server", "--max-num-seqs", "512", "--gpu-memory-utilization", "0.85"),
    model_flag="--model",
    # FlashInfer's sampler is on by default and its package may be absent.
    environment={"VLLM_USE_FLASHINFER_SAMPLER": "0"},
)

SGLANG = Peer(
    name="sglang",
    program="sglang_offline.py",
    options={
        "attention_backend": "fa3",
        "context_length": 8192,
        "mem_fraction_static": 0.85,
        "cuda_graph_max_bs_decode": 256,
        "disable_prefill_cuda_graph": True,
    },
    # Room for a prompt of 8,192 tokens and its answer.
    server=(
        *("-m", "sglang.launch_server", "--attention-backend", "fa3", "--context-length", "8448"),
        *("--mem-fraction-static", "0.85", "--cuda-graph-max-bs-decode", "256", "--disable-prefill-cuda-graph"),
    ),
    model_flag="--model-path",
    # What its small kernels need to be compiled at the first start; `CPATH` and `LIBRARY_PATH` are taken from outside.
    environment={
        "TVM_FFI_CACHE_DIR": "{site}/_jit/tvm-ffi",
        "SGLANG_NUMA_BIND_V2": "0",
        "CUDA_HOME": os.environ.get("CUDA_HOME", "/usr/local/cuda"),
        "FLASHINFER_CUDA_ARCH_LIST": "9.0a",
        "MAX_JOBS": "16",
    },
)

PEERS = {peer.name: peer for peer in (VLLM, SGLANG)}
