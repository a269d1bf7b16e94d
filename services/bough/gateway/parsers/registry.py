"""All formats by name, and which of them a model uses, told from its chat template."""

# ruff: noqa: RUF001 -- DeepSeek's markers have such bars

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from bough.gateway.parsers.spec import ReasoningFormat, ToolFormat, ToolSpec

__all__ = ["REASONING_FORMATS", "TOOL_FORMATS", "ReasoningFormat", "ToolFormat", "ToolSpec", "detect"]

TOOL_FORMATS: Mapping[str, ToolFormat] = MappingProxyType({})
"""Formats of tool calls by name."""

REASONING_FORMATS: Mapping[str, ReasoningFormat] = MappingProxyType({})
"""Formats of thoughts by name."""

_TOOL_SIGNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("gpt_oss", ("<|channel|>", "to=functions.")),
    ("kimi_k2", ("<|tool_calls_section_begin|>",)),
    ("deepseek_v3", ("<｜tool▁calls▁begin｜>", "```json")),
    ("deepseek_v31", ("<｜tool▁calls▁begin｜>",)),
    ("glm45", ("<tool_call>", "<arg_key>")),
    ("qwen3_coder", ("<function=", "<parameter=")),
    ("hermes", ("<tool_call>",)),
    ("mistral", ("[TOOL_CALLS]",)),
    ("pythonic", ("[func_name1(",)),
    ("llama3", ("<|python_tag|>",)),
    ("llama3", ("<|start_header_id|>", '"parameters"')),
)
"""What a template must contain for a format; the first that fits is taken, so the more special come first."""

_REASONING_SIGNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("gpt_oss", ("<|channel|>", "analysis")),
    ("kimi", ("<|tool_calls_section_begin|>", "<think>")),
    ("glm45", ("<arg_key>", "<think>")),
    ("deepseek_v3", ("<｜Assistant｜>", "<think>", "thinking")),
    ("deepseek_r1", ("<｜Assistant｜>", "</think>")),
    ("qwen3", ("<think>",)),
    ("qwen3", ("</think>",)),
)


def detect(chat_template: str) -> tuple[str | None, str | None]:
    """Names of the tool format and the reasoning format of the model that a Jinja chat template is for."""
    return _first_that_fits(chat_template, _TOOL_SIGNS), _first_that_fits(chat_template, _REASONING_SIGNS)


def _first_that_fits(template: str, signs: tuple[tuple[str, tuple[str, ...]], ...]) -> str | None:
    return next((name for name, parts in signs if all(part in template for part in parts)), None)
