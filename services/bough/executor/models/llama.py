"""Llama 2 and 3.x: the decoder that the other families vary."""

from __future__ import annotations

from torch import Tensor

from bough.executor.attention.base import AttentionSpec
from bough.executor.batch import ForwardBatch
from bough.executor.kvcache import Cache, LayerCache
from bough.executor.layers.attention import SelfAttention
from bough.executor.layers.mlp import GatedMLP
from bough.executor.layers.rotary import rotary_table
from bough.executor.layers.weights import BuildContext
from bough.executor.models.config import ModelConfig
from bough.kernels.interface import Norm


class DecoderLayer:
    """Attention and feed-forward (`attention`, `mlp`), each behind a norm and added to the residual stream."""

    def __init__(
        self, build: BuildContext, name: str, config: ModelConfig, spec: AttentionSpec, qkv_bias: bool
    ) -> None:
        size, eps = config.hidden_size, config.rms_norm_eps
        input_norm = build.norm(f"{name}.input_layernorm", size, eps)
        self.attention = SelfAttention(build, f"{name}.self_attn", config, spec, input_norm, qkv_bias)
        post_norm = build.norm(f"{name}.post_attention_layernorm", size, eps)
        self.mlp = GatedMLP(build, f"{name}.mlp", config, post_norm)

    def update(self, hidden: Tensor, cache: LayerCache, batch: ForwardBatch) -> None:
        """Add this layer's attention and feed-forward into the residual stream `hidden` [T, hidden], in place."""
        self.attention.add_to(hidden, cache, batch)
        self.mlp.add_to(hidden)


class LlamaForCausalLM:
    """Token embedding, decoder layers (`layers`), final norm and the projection to logits."""

    def __init__(self, config: ModelConfig, build: BuildContext) -> None:
        self.config = config
        self._kernels = build.kernels
        shape = (config.vocab_size, config.hidden_size)
        self._embedding = build.weights.take("model.embed_tokens.weight", shape)
        self._rotary = rotary_table(config.rope, config.head_dim, build.max_context).to(build.device)
        self.layers = tuple(self._layer(build, index) for index in range(config.num_layers))
        final_norm = build.norm("model.norm", config.hidden_size, config.rms_norm_eps)
        head = self._embedding if config.tie_word_embeddings else build.weights.take("lm_head.weight", shape)
        self._head = build.kernels.linear(head, norm=final_norm)

    def _layer(self, build: BuildContext, index: int) -> DecoderLayer:
        name = f"model.layers.{index}"
        spec = self._attention_spec(build, index, f"{name}.self_attn")
        return DecoderLayer(build, name, self.config, spec, self._qkv_bias())

    def _qkv_bias(self) -> bool:
        """Whether the query, key and value projections have a bias."""
        return self.config.attention_bias

    def _head_norms(self, build: BuildContext, name: str) -> tuple[Norm, Norm] | None:
        """Norms on query and key heads, for the families that have them."""
        return None

    def _attention_spec(self, build: BuildContext, index: int, name: str) -> AttentionSpec:
        config = self.config
        norms = self._head_norms(build, name)
        return AttentionSpec(
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            scale=config.head_dim**-0.5,
            window=config.windows[index],
            rotary=self._rotary,
            query_norm=norms[0].weight if norms else None,
            key_norm=norms[1].weight if norms else None,
            norm_eps=config.rms_norm_eps,
        )

    def forward(self, batch: ForwardBatch, cache: Cache) -> Tensor:
        """Run a step and return the logits [S, vocab] float32 of the batch's `logit_rows`."""
        return self.logits(self.hidden(batch, cache), batch.logit_rows)

    def hidden(self, batch: ForwardBatch, cache: Cache, out: Tensor | None = None) -> Tensor:
        """Run all layers over a step; [T, hidden] before the final norm. Keys and values go to the cache."""
        hidden = self.embed(batch, out)
        for layer, layer_cache in zip(self.layers, cache.layers, strict=True):
            layer.update(hidden, layer_cache, batch)
        return hidden

    def embed(self, batch: ForwardBatch, out: Tensor | None = None) -> Tensor:
        """The residual stream [T, hidden] before the first layer, written to `out` if given."""
        return self._kernels.embed(self._embedding, batch.tokens, out)

    def logits(self, hidden: Tensor, rows: Tensor | None) -> Tensor:
        """Logits [S, vocab] float32 of rows [S] of `hidden`, None for all: only those that sample pay for the head."""
        return self._head.logits(hidden if rows is None else self._kernels.take_rows(hidden, rows))
