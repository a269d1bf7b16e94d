"""How fast a model could run on a GPU at most: bytes that must be read and products that must be computed.

The roofline of Williams, Waterman and Patterson (2009), with what a large read and a large bf16 product reach on the
card rather than its data sheet: a decode step reads every weight once (or computes with it, if that takes longer) and
the keys and values of every row; a prompt computes with every weight for every token, and its attention.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BYTES = 2
"""Of a weight, a key or a value in bfloat16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a GPU reaches, measured."""

    read_bytes_per_s: float = 4.2e12
    flop_per_s: float = 790e12


H200 = Card()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """A dense decoder's sizes."""

    layer_weights: int
    """Weights of the matrices of all layers."""
    head_weights: int
    """Weights of the output matrix, which is the embedding too where they are tied."""
    query_width: int
    """Query heads times head size, summed over the layers."""
    kv_bytes: int
    """Keys and values of one token in all layers."""
    vocab_size: int
    max_context: int

    @classmethod
    def read(cls, model_dir: Path) -> ModelSize:
        """From a model directory's `config.json`."""
        return cls.of(json.loads((model_dir / "config.json").read_text(encoding="utf-8")))

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> ModelSize:
        """From a Hugging Face configuration of a dense Llama-like model."""
        hidden, layers, heads = config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"]
        head_dim = config.get("head_dim") or hidden // heads
        kv_heads = config.get("num_key_value_heads") or heads
        attention = hidden * head_dim * (2 * heads + 2 * kv_heads)
        return cls(
            layer_weights=layers * (attention + 3 * hidden * config["intermediate_size"]),
            head_weights=hidden * config["vocab_size"],
            query_width=layers * heads * head_dim,
            kv_bytes=layers * 2 * kv_heads * head_dim * _BYTES,
            vocab_size=config["vocab_size"],
            max_context=config["max_position_embeddings"],
        )

    def decode_step_s(self, rows: int, contexts: int, card: Card = H200) -> float:
        """Seconds of one step in which `rows` requests produce a token, their contexts `contexts` tokens together."""
        weights = self.layer_weights + self.head_weights
        matrices_s = max(weights * _BYTES / card.read_bytes_per_s, 2 * weights * rows / card.flop_per_s)
        return matrices_s + contexts * self.kv_bytes / card.read_bytes_per_s

    def prefill_s(self, new_tokens: int, cached_tokens: int = 0, card: Card = H200) -> float:
        """Seconds of computing one prompt's last `new_tokens`, those before it being cached, and its first token."""
        # A token attends to all before it and to itself; two products of 2 operations each.
        pairs = new_tokens * cached_tokens + new_tokens * (new_tokens + 1) // 2
        operations = 2 * self.layer_weights * new_tokens + 2 * self.head_weights + 4 * self.query_width * pairs
        return operations / card.flop_per_s

    def decode_s(self, prompts: Sequence[int], outputs: Sequence[int], card: Card = H200) -> float:
        """Seconds of producing all tokens but the first of each request, all of them running from the start.

        Args:
            prompts: Tokens of each prompt.
            outputs: Tokens each request produces.
            card: The GPU.
        """
        total = 0.0
        for step in range(1, max(outputs)):
            contexts = [prompt + step for prompt, output in zip(prompts, outputs, strict=True) if output > step]
            total += self.decode_step_s(len(contexts), sum(contexts), card)
        return total
