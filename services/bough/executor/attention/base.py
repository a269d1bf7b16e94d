"""What every attention backend does, and what a layer tells it about its heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from bough.executor.batch import ForwardBatch
from bough.executor.kvcache import LayerCache


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttentionSpec:
    """The constants of one layer's attention."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    """Factor on the scores before the softmax."""
    window: int | None
    """Tokens a query sees, its own included; None sees its whole context."""
    rotary: Tensor
    """[max_position, head_dim] float32: cos in the first half of the columns, sin in the second."""
    query_norm: Tensor | None = None
    """[head_dim]: weight of the RMS norm on each query head (Qwen3)."""
    key_norm: Tensor | None = None
    """[head_dim]: weight of the RMS norm on each key head."""
    norm_eps: float = 1e-6

    @property
    def qkv_size(self) -> int:
        """Columns of the joint query, key and value projection."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim


class AttentionBackend(Protocol):
    """Attention of a step's query tokens to their rows' contexts in the paged cache."""

    name: str

    def attend(self, qkv: Tensor, spec: AttentionSpec, cache: LayerCache, batch: ForwardBatch) -> Tensor:
        """Norm and rotate the heads of `qkv`, write keys and values to the batch's slots, attend to all of each row.

        Args:
            qkv: [T, qkv_size], projected queries, keys and values.
            spec: of the layer.
            cache: the layer's pages.
            batch: the step.

        Returns:
            [T, num_heads * head_dim].
        """
        ...
