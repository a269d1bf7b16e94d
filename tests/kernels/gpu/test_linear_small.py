"""Products of few rows equal float64, whatever is fused into them, however the work is cut, call after call."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bough.kernels.gpu.linear_config import MAX_ROWS, bucket, candidates, choose_config
from bough.kernels.gpu.linear_dot import DotConfig, Workspace
from bough.kernels.gpu.linear_gemv import GemvConfig
from bough.kernels.gpu.linear_small import SmallLinear, fits, small_linear
from bough.kernels.gpu.norm import rms_norm
from bough.kernels.interface import Norm

EPS = 1e-6
# Triton's interpreter cuts off where bfloat16 is rounded; float16 takes the same way through the kernel and is exact
HALF = torch.bfloat16 if torch.cuda.is_available() else torch.float16
EPSILON = torch.finfo(HALF).eps
ROWS = (1, 2, 3, 5, 8, 16, 17, 33, 64)
GEMV = GemvConfig(block_n=16, block_k=256, num_warps=1)
GEMV_LONG = GemvConfig(block_n=16, block_k=64, num_warps=2, max_programs=2)
DOT = DotConfig(block_n=64, block_k=32, splits=1, num_stages=3)
DOT_SPLIT = DotConfig(block_n=32, block_k=16, splits=3, num_stages=2)


def configs_for(rows: int) -> list[GemvConfig | DotConfig]:
    return [GEMV, GEMV_LONG, DOT, DOT_SPLIT] if rows <= 4 else [DOT, DOT_SPLIT]


def random(*shape: int, device: torch.device, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, HALF)


def weight_like(num_outputs: int, depth: int, device: torch.device) -> Tensor:
    return random(num_outputs, depth, device=device, seed=1).div(depth**0.5)


@pytest.fixture
def workspace(device: torch.device) -> Workspace:
    made = Workspace(device)
    made.partials.fill_(float("nan"))
    return made


def exact(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x.double(), weight.double(), None if bias is None else bias.double())


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("num_outputs", "depth"), [(64, 64), (38, 200)])
def test_logits_are_the_unrounded_product(
    device: torch.device, workspace: Workspace, rows: int, num_outputs: int, depth: int
) -> None:
    x, weight = random(rows, depth, device=device, seed=2), weight_like(num_outputs, depth, device)
    bias = random(num_outputs, device=device, seed=3)
    for config in configs_for(rows):
        chosen = bias if config in (GEMV, DOT_SPLIT) else None
        out = torch.full((rows, num_outputs), float("nan"), device=device)
        small_linear(x, weight, chosen, out=out, workspace=workspace, config=config)
        torch.testing.assert_close(out.double(), exact(x, weight, chosen), rtol=1e-5, atol=1e-5)
        rounded = small_linear(x, weight, chosen, workspace=workspace, config=config)
        assert torch.equal(rounded, out.to(HALF))


@pytest.mark.parametrize("rows", ROWS)
def test_a_norm_within_is_the_norm_before_bit_for_bit(device: torch.device, workspace: Workspace, rows: int) -> None:
    x, weight = random(rows, 200, device=device, seed=4), weight_like(70, 200, device)
    norm = Norm(random(200, device=device, seed=5), EPS)
    normed = rms_norm(x, norm.weight, EPS)
    for config in configs_for(rows):
        fused = small_linear(x, weight, norm=norm, out_dtype=torch.float32, workspace=workspace, config=config)
        apart = small_linear(normed, weight, out_dtype=torch.float32, workspace=workspace, config=config)
        assert torch.equal(fused, apart)


@pytest.mark.parametrize("rows", ROWS)
def test_the_residual_takes_the_rounded_product_in_place(device: torch.device, workspace: Workspace, rows: int) -> None:
    x, weight = random(rows, 136, device=device, seed=6), weight_like(50, 136, device)
    bias, before = random(50, device=device, seed=7), random(rows, 50, device=device, seed=8)
    for config in configs_for(rows):
        residual = before.clone()
        result = small_linear(x, weight, bias, residual=residual, workspace=workspace, config=config)
        assert result is residual
        product = small_linear(x, weight, bias, workspace=workspace, config=config)
        assert torch.equal(residual, before + product)


@pytest.mark.parametrize("rows", ROWS)
def test_a_gated_product_is_silu_of_gate_times_up(device: torch.device, workspace: Workspace, rows: int) -> None:
    num_gates = 50
    x, weight = random(rows, 96, device=device, seed=9), weight_like(2 * num_gates, 96, device)
    bias, norm = random(2 * num_gates, device=device, seed=10), Norm(random(96, device=device, seed=11), EPS)
    for config in configs_for(rows):
        out = torch.full((rows, num_gates), float("nan"), device=device, dtype=HALF)
        small_linear(x, weight, bias, norm=norm, gated=True, out=out, workspace=workspace, config=config)
        product = small_linear(x, weight, bias, norm=norm, workspace=workspace, config=config)
        gate, up = product.chunk(2, dim=-1)
        # exp may differ in float32's last bits: a rounding edge of each of two products
        torch.testing.assert_close(out, F.silu(gate) * up, rtol=2 * EPSILON, atol=1e-6)


def test_norm_bias_and_residual_together_equal_float64(device: torch.device, workspace: Workspace) -> None:
    for rows in (1, 3, 8, 33):
        x, weight = random(rows, 264, device=device, seed=12), weight_like(90, 264, device)
        bias, residual = random(90, device=device, seed=13), random(rows, 90, device=device, seed=14)
        norm = Norm(random(264, device=device, seed=15), EPS)
        expected = residual.double() + exact(rms_norm(x, norm.weight, EPS), weight, bias)
        for config in configs_for(rows):
            total = residual.clone()
            small_linear(x, weight, bias, norm=norm, residual=total, workspace=workspace, config=config)
            # two roundings of values below 8
            torch.testing.assert_close(total.double(), expected, rtol=EPSILON, atol=4 * EPSILON)


def test_calls_repeat_bit_for_bit_and_leave_the_workspace_ready(device: torch.device, workspace: Workspace) -> None:
    x, weight = random(17, 256, device=device, seed=16), weight_like(192, 256, device)
    first = small_linear(x, weight, workspace=workspace, config=DOT_SPLIT, out_dtype=torch.float32)
    for _ in range(20 if device.type == "cuda" else 2):
        again = small_linear(x, weight, workspace=workspace, config=DOT_SPLIT, out_dtype=torch.float32)
        assert torch.equal(again, first)
        assert not workspace.arrived.any()


@pytest.mark.parametrize("rows", [1, 8])
def test_a_chain_of_dependent_launches_gives_the_bits_of_launches_apart(
    device: torch.device, workspace: Workspace, rows: int
) -> None:
    depth = 512 if device.type == "cuda" else 64
    up = [random(2 * depth, depth, device=device, seed=i).div(depth**0.5) for i in range(6)]
    down = [random(depth, depth, device=device, seed=i + 10).div(depth**0.5) for i in range(6)]
    norm = Norm(random(depth, device=device, seed=20), EPS)
    start = random(rows, depth, device=device, seed=21)

    def run(pdl: bool) -> Tensor:
        residual = start.clone()
        for first, second in zip(up, down, strict=True):
            inner = small_linear(residual, first, norm=norm, gated=True, workspace=workspace, pdl=pdl)
            small_linear(inner, second, residual=residual, workspace=workspace, pdl=pdl)
        return residual

    apart = run(pdl=False)
    # the interpreter knows no dependent launches; there it is the repetition that is tested
    for _ in range(50 if device.type == "cuda" else 1):
        assert torch.equal(run(pdl=device.type == "cuda"), apart)


@pytest.mark.parametrize("rows", [2, 4, 8, 64])
def test_a_row_does_not_depend_on_the_rows_beside_it(device: torch.device, workspace: Workspace, rows: int) -> None:
    x, weight = random(rows, 128, device=device, seed=17), weight_like(40, 128, device)
    norm = Norm(random(128, device=device, seed=18), EPS)
    for config in configs_for(rows):
        alone = x.clone()
        alone[: rows - 1] = 1e3
        both = [
            small_linear(each, weight, norm=norm, workspace=workspace, config=config, out_dtype=torch.float32)[-1]
            for each in (x, alone)
        ]
        assert torch.equal(both[0], both[1])


def test_a_layer_runs_with_the_configuration_for_its_shape(device: torch.device, workspace: Workspace) -> None:
    weight, bias = weight_like(32, 256, device), random(32, device=device, seed=19)
    layer = SmallLinear(weight, workspace, bias, norm=Norm(random(256, device=device, seed=20), EPS))
    gated = SmallLinear(weight, workspace, gated=True)
    for rows in (1, 4, 7, 64):
        x = random(rows, 256, device=device, seed=21)
        logits = layer.logits(x)
        assert torch.equal(layer(x), logits.to(HALF))
        residual = torch.zeros(rows, 32, device=device, dtype=HALF)
        layer.add_to(residual, x)
        assert torch.equal(residual, logits.to(HALF))
        assert gated(x).shape == (rows, 16)


def test_every_shape_of_the_models_has_a_configuration_and_fits(device: torch.device) -> None:
    shapes = [(4096, 1024), (1024, 2048), (6144, 1024), (1024, 3072), (151_936, 1024), (24_576, 4096), (4096, 12_288)]
    workspace = Workspace(torch.device("cpu"))
    for (num_outputs, depth), rows in itertools.product(shapes, range(1, MAX_ROWS + 1)):
        assert fits(rows, num_outputs, depth, torch.bfloat16)
        assert choose_config(rows, num_outputs, depth) == choose_config(bucket(rows), num_outputs, depth)
        for config in (choose_config(rows, num_outputs, depth), *candidates(bucket(rows), num_outputs, depth)):
            if isinstance(config, DotConfig) and config.splits > 1:
                tiles = -(-num_outputs // config.block_n)
                workspace.check(tiles, tiles * config.splits * max(16, bucket(rows)) * config.block_n)


def test_what_no_kernel_takes_is_refused(device: torch.device, workspace: Workspace) -> None:
    x, weight = random(5, 64, device=device, seed=22), weight_like(32, 64, device)
    assert not fits(65, 32, 64, torch.bfloat16) and not fits(1, 32, 60, torch.bfloat16)
    with pytest.raises(ValueError, match="more than 64"):
        small_linear(random(65, 64, device=device, seed=1), weight, workspace=workspace)
    with pytest.raises(ValueError, match="needs a workspace"):
        small_linear(x, weight, config=DOT_SPLIT)
    with pytest.raises(ValueError, match="4 rows at most"):
        small_linear(x, weight, config=GEMV)
    with pytest.raises(ValueError, match="contiguous"):
        small_linear(x, weight.t().contiguous().t(), workspace=workspace)
    with pytest.raises(ValueError, match="cannot be added"):
        small_linear(x, weight, gated=True, residual=x[:, :16].contiguous(), workspace=workspace)
    with pytest.raises(ValueError, match="bias must be"):
        small_linear(x, weight, weight[0], workspace=workspace)
