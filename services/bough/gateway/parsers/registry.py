"""All formats by name, and which of them a model uses, told from its chat template."""

# ruff: noqa: RUF001 -- DeepSeek's markers have such bars

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from bough.gateway.parsers import glm45, harmony, kimi_k2, structural, think
from bough.gateway.parsers.base import ToolParser
from bough.gateway.parsers.deepseek import DeepSeekParser
from bough.gateway.parsers.glm45 import Glm45Parser
from bough.gateway.parsers.gpt_oss import END, GptOssParser
from bough.gateway.parsers.harmony import HarmonyParser
from bough.gateway.parsers.hermes import HermesParser
from bough.gateway.parsers.kimi_k2 import KimiK2Parser
from bough.gateway.parsers.llama3 import Llama3Parser
from bough.gateway.parsers.mistral import MistralParser
from bough.gateway.parsers.pythonic import PythonicParser
from bough.gateway.parsers.qwen3_coder import Qwen3CoderParser
from bough.gateway.parsers.spec import BuildStructuralTag, ReasoningFormat, ToolFormat, ToolSpec
from bough.gateway.parsers.think import ThinkParser

__all__ = ["REASONING_FORMATS", "TOOL_FORMATS", "ReasoningFormat", "ToolFormat", "ToolSpec", "detect"]


def _tool_format(
    name: str,
    make: Callable[[Sequence[ToolSpec]], ToolParser],
    structural_tag: BuildStructuralTag,
    *,
    keeps_special_tokens: bool = False,
) -> ToolFormat:
    return ToolFormat(name=name, make=make, keeps_special_tokens=keeps_special_tokens, structural_tag=structural_tag)


def _think_format(
    name: str, make: Callable[[bool], ThinkParser] = ThinkParser, *, keeps_special_tokens: bool = False
) -> ReasoningFormat:
    return ReasoningFormat(
        name=name, make=make, start=think.START, end=think.END, keeps_special_tokens=keeps_special_tokens
    )


def _think_or_call(*call_starts: str) -> Callable[[bool], ThinkParser]:
    return lambda is_open: ThinkParser(is_open, call_starts)


TOOL_FORMATS: Mapping[str, ToolFormat] = MappingProxyType(
    {
        found.name: found
        for found in (
            _tool_format("hermes", HermesParser, structural.hermes_tag),
            _tool_format("qwen", HermesParser, structural.hermes_tag),
            _tool_format("qwen25", HermesParser, structural.hermes_tag),
            _tool_format("qwen3_coder", Qwen3CoderParser, structural.qwen3_coder_tag),
            _tool_format("llama3", Llama3Parser, structural.llama3_tag, keeps_special_tokens=True),
            _tool_format("mistral", MistralParser, structural.mistral_tag, keeps_special_tokens=True),
            _tool_format("mistral_v11", MistralParser, structural.mistral_v11_tag, keeps_special_tokens=True),
            _tool_format("deepseek_v3", DeepSeekParser, structural.deepseek_v3_tag, keeps_special_tokens=True),
            _tool_format("deepseek_v31", DeepSeekParser, structural.deepseek_v31_tag, keeps_special_tokens=True),
            _tool_format("pythonic", PythonicParser, structural.pythonic_tag),
            _tool_format("gpt_oss", GptOssParser, structural.gpt_oss_tag, keeps_special_tokens=True),
            _tool_format("kimi_k2", KimiK2Parser, structural.kimi_k2_tag, keeps_special_tokens=True),
            _tool_format("glm45", Glm45Parser, structural.glm45_tag),
        )
    }
)
"""Formats of tool calls by name."""

REASONING_FORMATS: Mapping[str, ReasoningFormat] = MappingProxyType(
    {
        found.name: found
        for found in (
            _think_format("qwen3"),
            # The text is in the thoughts from the beginning even where nothing in prompt or text opened them.
            _think_format("deepseek_r1", lambda is_open: ThinkParser(True)),
            _think_format("deepseek_v3"),
            _think_format("kimi", _think_or_call(kimi_k2.SECTION_START, kimi_k2.START), keeps_special_tokens=True),
            _think_format("glm45", _think_or_call(glm45.START)),
            ReasoningFormat(
                name="gpt_oss",
                make=HarmonyParser,
                start=harmony.ANALYSIS_START,
                end=END,
                keeps_special_tokens=True,
            ),
        )
    }
)
"""Formats of thoughts by name."""

_TOOL_SIGNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("gpt_oss", ("<|channel|>", "<|message|>", "functions.")),
    ("kimi_k2", ("<|tool_calls_section_begin|>",)),
    ("deepseek_v3", ("<｜tool▁calls▁begin｜>", "```json")),
    ("deepseek_v31", ("<｜tool▁calls▁begin｜>",)),
    ("glm45", ("<tool_call>", "<arg_key>")),
    ("qwen3_coder", ("<function=", "<parameter=")),
    ("hermes", ("<tool_call>",)),
    ("mistral_v11", ("[TOOL_CALLS]", "[ARGS]")),
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
