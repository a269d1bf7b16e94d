"""RMS norms equal torch, in place, for odd widths and with what the padding of a block must not touch."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from bough.kernels.gpu.norm import NormConfig, add_rms_norm, magnitudes, rms_norm
from bough.kernels.interface import Norm
from bough.kernels.reference import TorchKernels

EPS = 1e-6
# Triton's interpreter cuts off where bfloat16 is rounded; float16 takes the same way through the kernel and is exact
HALF = torch.bfloat16 if torch.cuda.is_available() else torch.float16
# its relative rounding error
UNIT = torch.finfo(HALF).eps / 2


def random(*shape: int, device: torch.device, seed: int, dtype: torch.dtype = HALF) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def exact(x: Tensor, weight: Tensor) -> Tensor:
    wide = x.double()
    return weight.double() * wide / (wide.square().mean(-1, keepdim=True) + EPS).sqrt()


@pytest.mark.parametrize("rows", [1, 3, 17])
@pytest.mark.parametrize("width", [16, 100, 1024, 2560])
@pytest.mark.parametrize("dtype", [HALF, torch.float32], ids=["half", "float32"])
def test_rms_norm_equals_the_formula_in_float64(
    device: torch.device, rows: int, width: int, dtype: torch.dtype
) -> None:
    x = random(rows, width, device=device, seed=1, dtype=dtype)
    weight = random(width, device=device, seed=2, dtype=dtype)
    # two roundings, and some of float32 before them; below float16's normal numbers its error is absolute
    tolerance = 2.1 * UNIT if dtype == HALF else 1e-6
    torch.testing.assert_close(rms_norm(x, weight, EPS).double(), exact(x, weight), rtol=tolerance, atol=1e-7)


def test_rms_norm_rounds_where_the_reference_rounds(device: torch.device) -> None:
    x, weight = random(5, 768, device=device, seed=3), random(768, device=device, seed=4)
    expected = TorchKernels().rms_norm(x, Norm(weight, EPS))
    # the sum of squares may differ in float32's last bit, which moves a value across a rounding edge now and then
    assert (rms_norm(x, weight, EPS) != expected).float().mean() < 2e-3


def test_add_rms_norm_updates_the_residual_and_norms_the_rounded_sum(device: torch.device) -> None:
    residual, delta = random(3, 300, device=device, seed=5), random(3, 300, device=device, seed=6)
    weight = random(300, device=device, seed=7)
    total = residual + delta
    out = add_rms_norm(residual, delta, weight, EPS)
    assert torch.equal(residual, total)
    assert torch.equal(out, rms_norm(total, weight, EPS))


def test_outputs_are_overwritten_and_neighbours_are_not(device: torch.device) -> None:
    x, weight = random(2, 100, device=device, seed=8), random(100, device=device, seed=9)
    poisoned = torch.full((4, 100), float("nan"), device=device, dtype=HALF)
    rms_norm(x, weight, EPS, out=poisoned[1:3])
    assert torch.equal(poisoned[1:3], rms_norm(x, weight, EPS))
    assert poisoned[0].isnan().all() and poisoned[3].isnan().all()
    in_place = x.clone()
    assert torch.equal(rms_norm(in_place, weight, EPS, out=in_place), rms_norm(x, weight, EPS))


@triton.jit  # type: ignore[untyped-decorator]
def _magnitudes_kernel(x_ptr, out_ptr, COUNT: tl.constexpr):  # type: ignore[no-untyped-def]  # as kernels are
    at = tl.program_id(0) * COUNT + tl.arange(0, COUNT)
    tl.store(out_ptr + at, magnitudes(tl.load(x_ptr + at)))


def test_magnitudes_of_all_bfloat16_values_are_exact_where_a_norm_can_tell(device: torch.device) -> None:
    x = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16, device=device).view(torch.bfloat16)
    found = torch.empty(x.shape, dtype=torch.float64, device=device)
    _magnitudes_kernel[(64,)](x, found, COUNT=1024)
    wide = x.double().abs()
    smallest = torch.finfo(torch.bfloat16).smallest_normal
    normal = wide.isfinite() & (wide >= smallest)
    assert normal.sum() == 2 * 254 * 128
    assert torch.equal(found[normal], wide[normal])
    assert (found[wide < smallest] < smallest).all()
    assert (found[~wide.isfinite()] >= 2.0**128).all()


# the interpreter computes with numpy, which warns of what is asked for here
@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow", "ignore:divide by zero")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rows_of_zeros_are_zero_and_those_with_infinity_or_nan_are_not_finite(
    device: torch.device, dtype: torch.dtype
) -> None:
    x, weight = torch.zeros(4, 64, device=device, dtype=dtype), torch.ones(64, device=device, dtype=dtype)
    x[1, 5], x[2, 6], x[3, 7] = float("inf"), float("nan"), 2.0
    out = rms_norm(x, weight, EPS)
    assert torch.equal(out[0], torch.zeros_like(out[0]))
    assert out[1, 5].isnan() and out[2, 6].isnan()
    assert float(out[3, 7]) == pytest.approx(8.0, rel=1e-2) and (out[3, :7] == 0).all()


@pytest.mark.parametrize("width", [100, 1024])
@pytest.mark.parametrize("config", [NormConfig(1, 1), NormConfig(2, 4), NormConfig(4, 2)])
def test_bits_do_not_depend_on_how_the_work_is_cut(device: torch.device, width: int, config: NormConfig) -> None:
    x, delta = random(7, width, device=device, seed=1), random(7, width, device=device, seed=2)
    weight = random(width, device=device, seed=3)
    assert torch.equal(rms_norm(x, weight, EPS, config=config), rms_norm(x, weight, EPS))
    residual, other = x.clone(), x.clone()
    expected = add_rms_norm(residual, delta, weight, EPS)
    assert torch.equal(add_rms_norm(other, delta, weight, EPS, config=config), expected)
    assert torch.equal(residual, other)


def test_no_rows_are_no_error(device: torch.device) -> None:
    weight = random(64, device=device, seed=1)
    assert rms_norm(torch.empty(0, 64, device=device, dtype=HALF), weight, EPS).shape == (0, 64)


def test_what_the_kernel_does_not_take_is_refused(device: torch.device) -> None:
    x, weight = random(2, 64, device=device, seed=1), random(64, device=device, seed=2)
    with pytest.raises(ValueError, match="contiguous"):
        rms_norm(x[:, :32], weight[:32], EPS)
    with pytest.raises(ValueError, match="dtype of x"):
        rms_norm(x, weight.float(), EPS)
    with pytest.raises(ValueError, match="delta"):
        add_rms_norm(x, x[:1], weight, EPS)
