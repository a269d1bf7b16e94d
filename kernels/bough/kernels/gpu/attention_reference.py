"""Paged attention in plain torch: what the kernels are compared with."""

from __future__ import annotations

import torch
from torch import Tensor


def gather_pages(cache: Tensor, pages: Tensor) -> Tensor:
    """The tokens of `pages` [n] in order: [kv_heads, n * page, D] of a cache [num_pages, kv_heads, page, D]."""
    taken = cache[pages.long()]  # [n, kv_heads, page, D]
    return taken.transpose(0, 1).flatten(1, 2)


def attend_line(queries: Tensor, keys: Tensor, values: Tensor, scale: float, window: int | None) -> Tensor:
    """Causal attention of the last n tokens of one line, in the dtype of the arguments.

    Args:
        queries: [n, H, D], the tokens at positions C - n to C - 1.
        keys: [kv_heads, C, D].
        values: [kv_heads, C, D].
        scale: factor of the scores.
        window: a token sees this many tokens, itself among them; None for all before it.

    Returns:
        [n, H, D].
    """
    num_queries, num_heads, _ = queries.shape
    context = keys.shape[1]
    group = num_heads // keys.shape[0]
    keys, values = keys.repeat_interleave(group, 0), values.repeat_interleave(group, 0)
    scores = torch.einsum("nhd,hcd->hnc", queries, keys) * scale
    positions = torch.arange(context - num_queries, context, device=keys.device).unsqueeze(1)
    at = torch.arange(context, device=keys.device)
    visible = at <= positions
    if window is not None:
        visible &= at > positions - window
    weights = scores.masked_fill(~visible, float("-inf")).softmax(-1)
    return torch.einsum("hnc,hcd->nhd", weights, values)


def paged_attention_reference(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    page_table: Tensor,
    rows: Tensor,
    query_start: Tensor,
    context_lens: Tensor,
    *,
    scale: float,
    window: int | None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Causal attention of each line's query tokens over its pages, line by line, computed in `dtype`.

    The arguments are those of `paged_prefill_attention`; with one query token a line, those of
    `paged_decode_attention`. Tokens of padding lines and of no line give zeros.

    Returns:
        [T, H, D] in `dtype`.
    """
    out = torch.zeros(queries.shape, dtype=dtype, device=queries.device)
    starts = query_start.tolist()
    for line, context in enumerate(context_lens.tolist()):
        begin, end = starts[line], starts[line + 1]
        if context == 0 or begin == end:
            continue
        # Pages that lie before every token's window may belong to somebody else by now.
        page_size = keys.shape[2]
        first_seen = 0 if window is None else max(context - (end - begin) + 1 - window, 0)
        first_page = first_seen // page_size
        pages = page_table[int(rows[line]), first_page : -(-context // page_size)]
        seen = context - first_page * page_size
        line_keys = gather_pages(keys, pages)[:, :seen].to(dtype)
        line_values = gather_pages(values, pages)[:, :seen].to(dtype)
        out[begin:end] = attend_line(queries[begin:end].to(dtype), line_keys, line_values, scale, window)
    return out
