"""Formats go by name, and a chat template shows which of them its model uses."""

from __future__ import annotations

# ruff: noqa: RUF001 -- DeepSeek's markers have such bars
import pytest

from bough.demo import model_dir
from bough.gateway.parsers.registry import REASONING_FORMATS, TOOL_FORMATS, detect

TEMPLATES = {
    ("hermes", None): "For each call, return JSON within <tool_call></tool_call> tags: {%- for tool in tools %}",
    ("hermes", "qwen3"): "{{- '<tool_call>\\n{\"name\": \"' }} {%- set content = content.split('</think>')[-1] %}",
    ("qwen3_coder", None): "<tool_call>\\n<function=example>\\n<parameter=first>\\nvalue\\n</parameter>",
    ("qwen3_coder", "qwen3"): "<tool_call>\\n<function=f>\\n<parameter=a>\\n {{ '<think>\\n' }}",
    ("glm45", "glm45"): "<tool_call>{name}\\n<arg_key>{key}</arg_key>\\n<arg_value>v</arg_value> <think></think>",
    ("kimi_k2", None): "<|tool_calls_section_begin|>{%- for call in message['tool_calls'] %}<|tool_call_begin|>",
    ("kimi_k2", "kimi"): "<|tool_calls_section_begin|><|tool_call_begin|> <think>{{ thoughts }}</think>",
    (
        "deepseek_v3",
        None,
    ): "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>\\n```json\\n'",
    ("deepseek_v3", "deepseek_r1"): "<｜Assistant｜><｜tool▁calls▁begin｜>```json content.split('</think>') <think>\\n",
    ("deepseek_v31", "deepseek_v3"): "<｜Assistant｜>{%- if thinking %}<think>{% else %}</think>{% endif %}"
    "<｜tool▁calls▁begin｜>",
    ("mistral", None): "{{- '[TOOL_CALLS] [' }}{%- for tool_call in message.tool_calls %}",
    ("mistral_v11", None): "{{- '[TOOL_CALLS]' + tool_call.function.name + '[ARGS]' + arguments }}",
    ("llama3", None): '<|start_header_id|>Respond in the format {"name": function name, "parameters": dictionary}.',
    ("pythonic", None): "You SHOULD put it in the format of [func_name1(params_name1=params_value1...), func_name2(p)]",
    (
        "gpt_oss",
        "gpt_oss",
    ): "<|start|>assistant<|channel|>analysis<|message|> to=functions.{{ name }}<|channel|>commentary",
    (None, "qwen3"): "{{ '<|im_start|>assistant\\n<think>\\n' }}",
    (None, None): "{% for m in messages %}<|im_start|>{{ m.role }}\\n{{ m.content }}<|im_end|>{% endfor %}",
}


@pytest.mark.parametrize("names", TEMPLATES, ids=str)
def test_a_template_shows_its_formats(names: tuple[str | None, str | None]) -> None:
    assert detect(TEMPLATES[names]) == names


def test_names_are_those_of_the_formats() -> None:
    assert [name for name, found in TOOL_FORMATS.items() if found.name != name] == []
    assert [name for name, found in REASONING_FORMATS.items() if found.name != name] == []
    detected = [detect(template) for template in TEMPLATES.values()]
    assert {tool for tool, _ in detected} <= {*TOOL_FORMATS, None}
    assert {reasoning for _, reasoning in detected} <= {*REASONING_FORMATS, None}


def test_the_demo_model_is_one_of_qwen3() -> None:
    assert detect((model_dir() / "chat_template.jinja").read_text()) == ("hermes", "qwen3")


@pytest.mark.parametrize("name", sorted(REASONING_FORMATS))
def test_the_markers_of_a_reasoning_format_are_those_its_parser_reads(name: str) -> None:
    found = REASONING_FORMATS[name]
    parser = found.make(False)
    delta = parser.feed(f"{found.start}Hm.{found.end}")
    assert (delta.reasoning, delta.content) == ("Hm.", "")
