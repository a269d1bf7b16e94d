"""Products in the configurations that were measured for the shapes of served models, at those shapes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bough.kernels.gpu.linear_measured import MEASURED
from bough.kernels.gpu.norm import rms_norm
from bough.kernels.gpu.operations import GpuKernels
from bough.kernels.interface import Norm

pytestmark = pytest.mark.gpu

_EPS = 1e-6
_DEVICE = torch.device("cuda")


@pytest.mark.parametrize(("bound", "num_outputs", "depth", "gated"), MEASURED)
def test_measured_products_equal_float64_with_all_that_a_step_puts_around_them(
    bound: int, num_outputs: int, depth: int, gated: bool
) -> None:
    kernels = GpuKernels(_DEVICE, pdl=True)
    generator = torch.Generator(_DEVICE).manual_seed(bound)
    weight = torch.randn(num_outputs, depth, generator=generator, device=_DEVICE).div(depth**0.5).bfloat16()
    norm = Norm(torch.rand(depth, generator=generator, device=_DEVICE).add(0.5).bfloat16(), _EPS)
    for rows in {bound, bound // 2 + 1}:
        x = torch.randn(rows, depth, generator=generator, device=_DEVICE).bfloat16()
        exact = F.linear(rms_norm(x, norm.weight, norm.eps).double(), weight.double())
        if gated:
            gate, up = exact.chunk(2, dim=-1)
            gates, ups = weight.chunk(2)
            out = kernels.gated_linear(gates, ups, norm=norm)(x)
            torch.testing.assert_close(out.double(), F.silu(gate) * up, rtol=0.02, atol=0.02)
            continue
        layer = kernels.linear(weight, norm=norm)
        torch.testing.assert_close(layer.logits(x).double(), exact, rtol=1e-4, atol=1e-4)
        residual = torch.randn(rows, num_outputs, generator=generator, device=_DEVICE).bfloat16()
        expected = residual.double() + exact
        layer.add_to(residual, x)
        torch.testing.assert_close(residual.double(), expected, rtol=0.01, atol=0.02)
