"""What both paged attention kernels ask of their arguments, and the layout of the cache they share.

The cache of a layer is two tensors [num_pages, num_kv_heads, PAGE_SIZE, head_dim], one of keys and one of values: a
page of one head lies in one piece, so that a program that serves one head reads whole pages of consecutive bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PAGE_SIZE = 16
LOG2_E = 1.4426950408889634
SUPPORTED_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
MAX_HEAD_DIM = 256
MAX_GROUP = 16


@dataclass(frozen=True)
class AttentionShape:
    """The sizes that a kernel is compiled for."""

    num_heads: int
    num_kv_heads: int
    head_dim: int

    @property
    def group(self) -> int:
        """Query heads that share one head of keys and values."""
        return self.num_heads // self.num_kv_heads


def require(condition: bool, problem: str) -> None:
    """Raise ValueError with `problem` unless `condition` holds."""
    if not condition:
        raise ValueError(problem)


def check_cache(queries: Tensor, keys: Tensor, values: Tensor, out: Tensor) -> AttentionShape:
    """Check queries and out [T, H, D] against a cache of keys and values, and return the sizes.

    Raises:
        ValueError: a shape, dtype, device or memory layout that the kernels do not support; it names the argument.
    """
    require(queries.dim() == 3, f"queries must be [tokens, heads, head_dim], not {list(queries.shape)}")
    require(queries.dtype in SUPPORTED_DTYPES, f"queries must be bfloat16, float16 or float32, not {queries.dtype}")
    num_heads, head_dim = queries.shape[1:]
    require(
        head_dim % 16 == 0 and 16 <= head_dim <= MAX_HEAD_DIM,
        f"queries: head_dim must be a multiple of 16 up to {MAX_HEAD_DIM}, not {head_dim}",
    )
    require(
        keys.dim() == 4 and keys.shape[2:] == (PAGE_SIZE, head_dim),
        f"keys must be [pages, kv_heads, {PAGE_SIZE}, {head_dim}], not {list(keys.shape)}",
    )
    require(values.shape == keys.shape, f"values must be {list(keys.shape)} like keys, not {list(values.shape)}")
    require(out.shape == queries.shape, f"out must be {list(queries.shape)} like queries, not {list(out.shape)}")
    num_kv_heads = keys.shape[1]
    require(
        num_kv_heads > 0 and num_heads % num_kv_heads == 0 and 1 <= num_heads // num_kv_heads <= MAX_GROUP,
        f"queries: {num_heads} heads over {num_kv_heads} key-value heads; "
        f"1 to {MAX_GROUP} whole query heads must share one",
    )
    for name, tensor in (("queries", queries), ("keys", keys), ("values", values), ("out", out)):
        require(tensor.dtype == queries.dtype, f"{name} must be {queries.dtype} like queries, not {tensor.dtype}")
        require(tensor.device == queries.device, f"{name} must be on {queries.device}, not {tensor.device}")
        require(tensor.is_contiguous(), f"{name} must be contiguous")
    return AttentionShape(num_heads, num_kv_heads, head_dim)


def check_index(name: str, tensor: Tensor, shape: tuple[int | None, ...], device: torch.device) -> None:
    """Check that an index tensor is contiguous int32 on `device`; None in `shape` allows any size.

    Raises:
        ValueError: it is not; the message names the argument.
    """
    fits = tensor.dim() == len(shape) and all(
        want is None or got == want for got, want in zip(tensor.shape, shape, strict=True)
    )
    wanted = ", ".join("any" if want is None else str(want) for want in shape)
    require(fits, f"{name} must be [{wanted}], not {list(tensor.shape)}")
    require(tensor.dtype == torch.int32, f"{name} must be int32, not {tensor.dtype}")
    require(tensor.device == device, f"{name} must be on {device}, not {tensor.device}")
    require(tensor.is_contiguous(), f"{name} must be contiguous")


def check_scalars(scale: float, window: int | None) -> None:
    """Check the factor of the scores and the sliding window.

    Raises:
        ValueError: scale is not positive, or window is less than 1.
    """
    require(scale > 0.0, f"scale must be positive, not {scale}")
    require(window is None or window >= 1, f"window must be at least 1 token or None, not {window}")
