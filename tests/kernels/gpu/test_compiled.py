"""The compiled function between two attentions computes what it computes uncompiled, and is kept on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from bough.kernels.gpu.compiled import Between, CompiledBlock, CompileError, Dense, between_attentions
from bough.kernels.interface import Norm
from bough.kernels.reference import TorchKernels

# The compiler's own modules use what torch deprecates, and advise TF32 where a float32 product is compiled.
pytestmark = pytest.mark.filterwarnings("ignore:::torch")

HIDDEN, ATTENDED, INNER, QKV = 64, 96, 112, 128
ROWS = 8


@pytest.fixture(autouse=True)
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    # set first, so that it is gone again after the test
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "unset")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    torch.compiler.reset()
    counters.clear()
    return tmp_path / "triton" / "inductor"


def make_between(seed: int, dtype: torch.dtype, device: torch.device, *, bias: bool) -> Between:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def dense(out_features: int, in_features: int, *, norm: bool) -> Dense:
        return Dense(
            (random(out_features, in_features) / in_features**0.5).to(device, dtype),
            random(out_features).to(device, dtype) if bias else None,
            (1 + random(in_features) / 4).to(device, dtype) if norm else None,
            1e-5 if norm else 0.0,
        )

    return Between(
        out=dense(HIDDEN, ATTENDED, norm=False),
        gate_up=dense(2 * INNER, HIDDEN, norm=True),
        down=dense(HIDDEN, INNER, norm=False),
        qkv=dense(QKV, HIDDEN, norm=True),
    )


def make_inputs(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = (HIDDEN, ATTENDED)
    residual, attended = (torch.randn(ROWS, size, generator=generator).to(device, dtype) for size in sizes)
    return residual, attended


@pytest.mark.parametrize("bias", [False, True])
@torch.inference_mode()
def test_the_function_is_that_of_the_reference_kernels(bias: bool, device: torch.device) -> None:
    kernels = TorchKernels()
    between = make_between(1, torch.float32, device, bias=bias)
    residual, attended = make_inputs(torch.float32, device)
    result, qkv = between_attentions(residual, attended, between)

    expected = residual.clone()
    kernels.linear(between.out.weight, between.out.bias).add_to(expected, attended)
    (gate, up), biases = between.gate_up.weight.chunk(2), between.gate_up.bias
    gate_bias, up_bias = (None, None) if biases is None else biases.chunk(2)
    assert between.gate_up.norm is not None and between.qkv.norm is not None
    inner = kernels.gated_linear(gate, up, gate_bias, up_bias, Norm(between.gate_up.norm, between.gate_up.eps))
    kernels.linear(between.down.weight, between.down.bias).add_to(expected, inner(expected))
    projection = kernels.linear(between.qkv.weight, between.qkv.bias, Norm(between.qkv.norm, between.qkv.eps))
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(qkv, projection(expected))


@torch.inference_mode()
def test_layers_share_one_compiled_function_with_the_results_of_the_uncompiled_one(
    cache_dir: Path, device: torch.device
) -> None:
    block = CompiledBlock("default")
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 2**-7)):
        residual, attended = make_inputs(dtype, device)
        before = residual.clone(), attended.clone()
        for seed in (1, 2, 3):
            between = make_between(seed, dtype, device, bias=False)
            expected = between_attentions(residual, attended, between)
            for found, wanted in zip(block(residual, attended, between), expected, strict=True):
                assert found.dtype == dtype
                torch.testing.assert_close(found, wanted, rtol=tolerance, atol=4 * tolerance)
        assert torch.equal(residual, before[0]) and torch.equal(attended, before[1])
    assert counters["stats"]["unique_graphs"] == 2
    assert any(cache_dir.rglob("*")), "nothing is kept for the next start"


@torch.inference_mode()
def test_a_compiler_that_is_missing_is_named() -> None:
    import torch._inductor.config

    cpu = torch.device("cpu")  # whose code is C++ on every machine
    block = CompiledBlock("default")
    with (
        torch._inductor.config.patch({"cpp.cxx": (None, "/nowhere/c++")}),
        pytest.raises(CompileError, match="/nowhere/c"),
    ):
        block(*make_inputs(torch.float32, cpu), make_between(1, torch.float32, cpu, bias=False))
