"""Norm, rotation and the write to the cache in one launch equal the torch backend's three steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bough.kernels.gpu.rope import PAGE_SIZE, RopeConfig, norm_rope_store
from bough.kernels.interface import Norm
from bough.kernels.reference import TorchKernels

EPS = 1e-6
# Triton's interpreter cuts off where bfloat16 is rounded; float16 takes the same way through the kernel and is exact
HALF = torch.bfloat16 if torch.cuda.is_available() else torch.float16
EPSILON = torch.finfo(HALF).eps


def random(*shape: int, device: torch.device, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, HALF)


def angles(positions: int, dim: int, device: torch.device) -> Tensor:
    frequency = 10_000.0 ** -(torch.arange(dim // 2) / (dim // 2))
    angle = torch.arange(positions).unsqueeze(1) * frequency
    return torch.cat((angle.cos(), angle.sin()), dim=-1).to(device)


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    cos, sin = rotary.unsqueeze(1).chunk(2, dim=-1)
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(4, 2, 128), (3, 1, 64), (7, 1, 80)])
@pytest.mark.parametrize("num_tokens", [1, 5, 18])
@pytest.mark.parametrize("normed", [False, True], ids=["plain", "normed"])
def test_one_launch_equals_norm_rotate_and_write(
    device: torch.device, heads: int, kv_heads: int, dim: int, num_tokens: int, normed: bool
) -> None:
    num_pages = 4
    qkv = random(num_tokens, (heads + 2 * kv_heads) * dim, device=device, seed=1)
    query_norm = random(dim, device=device, seed=2) if normed else None
    key_norm = random(dim, device=device, seed=3) if normed else None
    positions = torch.arange(num_tokens, device=device) * 7 + 2
    rotary = angles(256, dim, device)
    slots = torch.randperm(num_pages * PAGE_SIZE, generator=torch.Generator().manual_seed(4))[:num_tokens].to(device)
    slots[num_tokens // 2 :: 4] = -1
    shape = (num_pages, kv_heads, PAGE_SIZE, dim)
    keys, values = random(*shape, device=device, seed=5), random(*shape, device=device, seed=6)
    expected_keys, expected_values = keys.clone(), values.clone()

    q, k, v = qkv.view(num_tokens, -1, dim).tensor_split((heads, heads + kv_heads), dim=1)
    if query_norm is not None and key_norm is not None:
        q, k = TorchKernels().rms_norm(q, Norm(query_norm, EPS)), TorchKernels().rms_norm(k, Norm(key_norm, EPS))
    q, k = rotate(q, rotary[positions]), rotate(k, rotary[positions])
    for token, slot in enumerate(slots.tolist()):
        if slot >= 0:
            expected_keys[slot // PAGE_SIZE, :, slot % PAGE_SIZE] = k[token]
            expected_values[slot // PAGE_SIZE, :, slot % PAGE_SIZE] = v[token]

    out = torch.full((num_tokens, heads * dim), float("nan"), device=device, dtype=HALF)
    queries = norm_rope_store(qkv, positions, slots, rotary, query_norm, key_norm, EPS, keys, values, heads, out=out)
    assert queries is out
    # now and then a value falls on the other side of a rounding edge, before the difference of two products too
    torch.testing.assert_close(queries.view(q.shape), q, rtol=2 * EPSILON, atol=4 * EPSILON)
    torch.testing.assert_close(keys, expected_keys, rtol=2 * EPSILON, atol=4 * EPSILON)
    assert (queries.view(q.shape) != q).float().mean() < 5e-3
    assert torch.equal(values, expected_values)


@pytest.mark.parametrize("config", [RopeConfig(2, 2), RopeConfig(16, 4)])
def test_bits_do_not_depend_on_how_the_work_is_cut(device: torch.device, config: RopeConfig) -> None:
    heads, kv_heads, dim, num_tokens = 5, 2, 64, 4
    qkv, norm = (
        random(num_tokens, (heads + 2 * kv_heads) * dim, device=device, seed=1),
        random(dim, device=device, seed=2),
    )
    at, rotary = torch.arange(num_tokens, device=device), angles(num_tokens, dim, device)
    results = []
    for cut in (None, config):
        cache = torch.zeros(2, 1, kv_heads, PAGE_SIZE, dim, device=device, dtype=HALF)
        queries = norm_rope_store(qkv, at, at, rotary, norm, norm, EPS, cache[0], cache[1], heads, config=cut)
        results.append((queries, cache))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def test_only_padding_leaves_the_cache_and_what_lies_before_it_alone(device: torch.device) -> None:
    shape = (3, 1, PAGE_SIZE, 16)
    keys, values = random(*shape, device=device, seed=1), random(*shape, device=device, seed=2)
    before = keys.clone(), values.clone()
    zeros = torch.zeros(3, device=device, dtype=torch.int64)
    qkv = random(3, 3 * 16, device=device, seed=3)
    norm_rope_store(qkv, zeros, zeros - 1, angles(8, 16, device), None, None, EPS, keys[1:2], values[1:2], 1)
    assert torch.equal(keys, before[0]) and torch.equal(values, before[1])


def test_what_the_kernel_does_not_take_is_refused(device: torch.device) -> None:
    cache = random(1, 1, PAGE_SIZE, 16, device=device, seed=1)
    at = torch.zeros(2, device=device, dtype=torch.int64)
    qkv, rotary = random(2, 48, device=device, seed=2), angles(8, 16, device)
    with pytest.raises(ValueError, match="slots must be"):
        norm_rope_store(qkv, at, at.int(), rotary, None, None, EPS, cache, cache, 1)
    with pytest.raises(ValueError, match="rotary"):
        norm_rope_store(qkv, at, at, rotary.to(HALF), None, None, EPS, cache, cache, 1)
    with pytest.raises(ValueError, match="qkv"):
        norm_rope_store(qkv, at, at, rotary, None, None, EPS, cache, cache, 2)
