"""What is written to a page is read back from it, and pages are copied whole."""

from __future__ import annotations

import pytest
import torch

from bough.executor.kvcache import KVCache, KVCacheLayout


@pytest.fixture(params=[torch.float32, torch.bfloat16])
def cache(request: pytest.FixtureRequest) -> KVCache:
    return KVCache(KVCacheLayout(num_layers=2, num_kv_heads=3, head_dim=32, dtype=request.param), 10)


def test_written_tokens_are_gathered_in_the_order_of_the_pages(cache: KVCache) -> None:
    dtype = cache.layout.dtype
    keys, values = torch.randn(2, 40, 3, 32).to(dtype)
    pages = torch.tensor([7, 2, 9])
    slots = torch.tensor([int(pages[i // 16]) * 16 + i % 16 for i in range(40)])
    cache.layers[1].write(keys, values, slots)
    gathered_keys, gathered_values = cache.layers[1].gather(pages)
    assert torch.equal(gathered_keys[:, :40], keys.transpose(0, 1))
    assert torch.equal(gathered_values[:, :40], values.transpose(0, 1))
    assert not gathered_keys[:, 40:].any()
    assert not cache.layers[0].keys.any()


def test_pages_are_copied_in_every_layer(cache: KVCache) -> None:
    for layer in cache.layers:
        layer.keys.normal_()
        layer.values.normal_()
    before = [(layer.keys.clone(), layer.values.clone()) for layer in cache.layers]
    cache.copy_pages([1, 4], [8, 3])
    for layer, (keys, values) in zip(cache.layers, before, strict=True):
        for source, target in ((1, 8), (4, 3), (0, 0), (5, 5)):
            assert torch.equal(layer.keys[target], keys[source])
            assert torch.equal(layer.values[target], values[source])


def test_page_bytes_is_what_the_tensors_take(cache: KVCache) -> None:
    total = sum(tensor.nbytes for layer in cache.layers for tensor in (layer.keys, layer.values))
    assert cache.layout.page_bytes * cache.num_pages == total
