"""The gated activation equals torch's, rounding included."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bough.kernels.gpu.activation import silu_mul

# Triton's interpreter cuts off where bfloat16 is rounded; float16 takes the same way through the kernel and is exact
HALF = torch.bfloat16 if torch.cuda.is_available() else torch.float16


@pytest.mark.parametrize(("rows", "width"), [(1, 16), (3, 100), (2, 1024), (2, 1500)])
@pytest.mark.parametrize("dtype", [HALF, torch.float32], ids=["half", "float32"])
def test_silu_mul_equals_torch(device: torch.device, rows: int, width: int, dtype: torch.dtype) -> None:
    gate_up = 4 * torch.randn(rows, 2 * width, generator=torch.Generator().manual_seed(1))
    gate_up = gate_up.to(device, dtype)
    gate, up = gate_up.chunk(2, dim=-1)
    out = torch.full((rows, width), float("nan"), device=device, dtype=dtype)
    assert silu_mul(gate_up, out) is out
    # exp differs in float32's last bits, which moves a value across one rounding edge of each product at most
    tolerance = 2 * torch.finfo(HALF).eps if dtype == HALF else 2e-6
    torch.testing.assert_close(out, F.silu(gate) * up, rtol=tolerance, atol=1e-6)
    assert (out != F.silu(gate) * up).float().mean() < (5e-3 if dtype == HALF else 1.0)


def test_large_gates_neither_overflow_nor_lose_their_sign(device: torch.device) -> None:
    gate_up = torch.tensor([[-6e4, 6e4, -200.0, 200.0] + [1.0] * 4], device=device, dtype=HALF)
    gate, up = gate_up.chunk(2, dim=-1)
    torch.testing.assert_close(silu_mul(gate_up), F.silu(gate) * up)


def test_what_the_kernel_does_not_take_is_refused(device: torch.device) -> None:
    with pytest.raises(ValueError, match="as many gates"):
        silu_mul(torch.zeros(1, 3, device=device))
    with pytest.raises(ValueError, match="contiguous"):
        silu_mul(torch.zeros(2, 8, device=device)[:, :4])
