"""Mistral: Llama whose layers see a sliding window (`ModelConfig.windows`)."""

from __future__ import annotations

from bough.executor.models.llama import LlamaForCausalLM


class MistralForCausalLM(LlamaForCausalLM):
    """Same weights and order of operations as Llama; the windows come with the configuration."""
