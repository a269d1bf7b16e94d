"""The native attention backend computes what the torch reference computes, bit for bit the same in any batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bough.executor.attention.base import AttentionSpec
from bough.executor.attention.native_backend import NativeAttention, native_step
from bough.executor.attention.torch_backend import TorchAttention
from bough.executor.kvcache import KVCache, KVCacheLayout, LayerCache
from bough.kernels.cpu.native import OpRunner
from tests.helpers.batches import Row, make_batch

NUM_PAGES = 64
# (heads, kv heads, head size): no group, odd group, one shared head, more heads per group than a tile has rows
SHAPES = [(4, 4, 16), (6, 2, 32), (8, 1, 64), (2, 1, 128), (40, 2, 32), (2, 2, 256), (3, 3, 48)]
# bfloat16: the two round normed queries and keys at different points, which scores of up to 20 feel
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 4e-2}


@pytest.fixture(scope="module", params=[True, False], ids=["amx", "no-amx"])
def native(request: pytest.FixtureRequest) -> NativeAttention:
    return NativeAttention(OpRunner(num_threads=2, use_amx=request.param))


def make_spec(heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype, window: int | None) -> AttentionSpec:
    generator = torch.Generator().manual_seed(head_dim)
    angles = torch.rand(1024, head_dim // 2, generator=generator) * 6
    norm = (1 + torch.rand(2, head_dim, generator=generator)).to(dtype)
    return AttentionSpec(
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        window=window,
        rotary=torch.cat((angles.cos(), angles.sin()), dim=-1),
        query_norm=norm[0] if heads % 2 == 0 else None,
        key_norm=norm[1] if heads % 2 == 0 else None,
    )


def make_cache(spec: AttentionSpec, dtype: torch.dtype, seed: int = 5) -> LayerCache:
    layout = KVCacheLayout(num_layers=1, num_kv_heads=spec.num_kv_heads, head_dim=spec.head_dim, dtype=dtype)
    cache = KVCache(layout, NUM_PAGES).layers[0]
    generator = torch.Generator().manual_seed(seed)
    cache.keys.copy_(torch.randn(cache.keys.shape, generator=generator))
    cache.values.copy_(torch.randn(cache.values.shape, generator=generator))
    return cache


def make_rows() -> list[tuple[Row, int]]:
    """Two decodes and three chunks, with contexts around the borders of pages and of blocks of 64 tokens."""
    pages = iter(torch.randperm(NUM_PAGES, generator=torch.Generator().manual_seed(3)).tolist())
    work = []
    for num_computed, num_tokens in ((0, 1), (130, 1), (0, 65), (63, 18), (200, 33)):
        needed = -(-(num_computed + num_tokens) // 16)
        row = Row(tokens=[1] * 300, pages=[next(pages) for _ in range(needed)], num_computed=num_computed)
        work.append((row, num_tokens))
    return work


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 1, 40, 64, 100])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), SHAPES)
def test_native_attention_equals_the_reference(
    native: NativeAttention, heads: int, kv_heads: int, head_dim: int, window: int | None, dtype: torch.dtype
) -> None:
    spec = make_spec(heads, kv_heads, head_dim, dtype, window)
    batch = make_batch(make_rows(), 16)
    qkv = torch.randn(batch.num_tokens, spec.qkv_size, generator=torch.Generator().manual_seed(1)).to(dtype)
    caches = [make_cache(spec, dtype), make_cache(spec, dtype)]
    actual = native.attend(qkv, spec, caches[0], batch)
    expected = TorchAttention().attend(qkv, spec, caches[1], batch)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(caches[0].keys, caches[1].keys, atol=tolerance, rtol=tolerance)
    assert torch.equal(caches[0].values, caches[1].values)
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 40])
def test_a_token_has_the_same_bits_alone_and_in_a_chunk(
    native: NativeAttention, dtype: torch.dtype, window: int | None
) -> None:
    spec = make_spec(8, 4, 32, dtype, window)
    pages = list(range(20))
    qkv = torch.randn(150, spec.qkv_size, generator=torch.Generator().manual_seed(2)).to(dtype)
    whole = make_batch([(Row(tokens=[1] * 300, pages=pages, num_computed=100), 150)], 16)
    together = native.attend(qkv, spec, make_cache(spec, dtype), whole)
    cache = make_cache(spec, dtype)
    for offset in range(150):
        single = make_batch([(Row(tokens=[1] * 300, pages=pages, num_computed=100 + offset), 1)], 16)
        alone = native.attend(qkv[offset : offset + 1], spec, cache, single)
        assert torch.equal(alone[0], together[offset]), offset


def test_what_lies_behind_a_context_does_not_matter(native: NativeAttention) -> None:
    spec = make_spec(8, 4, 32, torch.float32, None)
    batch = make_batch([(Row(tokens=[1] * 300, pages=[1, 0, 3], num_computed=36), 1)], 16)
    qkv = torch.randn(1, spec.qkv_size, generator=torch.Generator().manual_seed(2))
    results = []
    for poison in (0.0, 1e30):
        cache = make_cache(spec, torch.float32)
        cache.keys[3, :, :, 5:] = poison
        cache.values[3, :, 5:] = poison
        cache.keys[4:] = poison
        results.append(native.attend(qkv, spec, cache, batch))
    assert torch.equal(results[0], results[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("in_last_page", [1, 4, 5, 15])
@pytest.mark.parametrize("by_torch", [False, True])
def test_nan_that_an_earlier_sequence_left_behind_a_context_does_not_matter(
    native: NativeAttention, by_torch: bool, in_last_page: int, dtype: torch.dtype
) -> None:
    spec = make_spec(8, 4, 32, dtype, None)
    work = [
        (Row(tokens=[1] * 300, pages=[1, 2, 3], num_computed=31 + in_last_page), 1),
        (Row(tokens=[1] * 300, pages=[4, 5, 6, 7, 8, 9], num_computed=80), 1),
        (Row(tokens=[1] * 300, pages=[10, 11], num_computed=0), 16 + in_last_page),
    ]
    batch = make_batch(work, 16)
    qkv = torch.randn(batch.num_tokens, spec.qkv_size, generator=torch.Generator().manual_seed(2)).to(dtype)
    backend = TorchAttention() if by_torch else native
    results = []
    for left in (0.0, torch.nan):
        cache = make_cache(spec, dtype)
        keys, values = cache.gather(torch.arange(NUM_PAGES))
        for row, num_tokens in work:
            slots = [row.pages[at // 16] * 16 + at % 16 for at in range(row.num_computed + num_tokens)]
            kept_keys, kept_values = (part[:, slots].transpose(0, 1).clone() for part in (keys, values))
            cache.keys[row.pages], cache.values[row.pages] = left, left
            cache.write(kept_keys, kept_values, torch.tensor(slots))
        cache.keys[0], cache.values[0] = left, left  # stands in the page table where a row has no page
        results.append(backend.attend(qkv, spec, cache, batch))
    assert torch.equal(results[0], results[1]) and not results[0].isnan().any()


def test_a_batch_of_other_types_is_refused_before_native_code_reads_it() -> None:
    batch = make_batch(make_rows(), 16)
    with pytest.raises(TypeError, match=r"ForwardBatch\.page_table must be contiguous torch\.int32, is torch\.int64"):
        native_step(replace(batch, page_table=batch.page_table.long()))
    with pytest.raises(TypeError, match=r"ForwardBatch\.tokens must be contiguous"):
        native_step(replace(batch, tokens=batch.tokens[::2]))
