"""Qwen2 and Qwen2.5: Llama with a bias on queries, keys and values, and windows on the upper layers if asked for."""

from __future__ import annotations

from bough.executor.models.llama import LlamaForCausalLM


class Qwen2ForCausalLM(LlamaForCausalLM):
    """The bias is part of the architecture, not of the configuration; the output projection has none."""

    def _qkv_bias(self) -> bool:
        return True
