"""Self-attention of a decoder layer: norm, joint projection, heads, paged attention, output projection."""

from __future__ import annotations

from torch import Tensor

from bough.executor.attention.base import AttentionSpec
from bough.executor.batch import ForwardBatch
from bough.executor.kvcache import LayerCache
from bough.executor.layers.weights import BuildContext
from bough.executor.models.config import ModelConfig
from bough.kernels.interface import Norm


class SelfAttention:
    """Grouped-query attention; biases and norms on the heads as the model wants them.

    `qkv` and `out` are its projections.
    """

    def __init__(
        self, build: BuildContext, name: str, config: ModelConfig, spec: AttentionSpec, norm: Norm, qkv_bias: bool
    ) -> None:
        hidden, head_dim = config.hidden_size, config.head_dim
        parts = [
            (f"{name}.q_proj", config.num_heads * head_dim),
            (f"{name}.k_proj", config.num_kv_heads * head_dim),
            (f"{name}.v_proj", config.num_kv_heads * head_dim),
        ]
        self.qkv = build.joint_linear(parts, hidden, qkv_bias, norm)
        self.out = build.linear(f"{name}.o_proj", config.num_heads * head_dim, hidden, config.attention_bias)
        self._backend = build.attention
        self._spec = spec

    def add_to(self, hidden: Tensor, cache: LayerCache, batch: ForwardBatch) -> None:
        """Add the attention of `hidden` [T, hidden] into it; the tokens' keys and values go to the cache."""
        self.out.add_to(hidden, self.attend(self.qkv(hidden), cache, batch))

    def attend(self, qkv: Tensor, cache: LayerCache, batch: ForwardBatch) -> Tensor:
        """What the heads see [T, H * D], of their queries, keys and values [T, (H + 2 * KV) * D], which are kept."""
        return self._backend.attend(qkv, self._spec, cache, batch)
