"""Chat templates render as in transformers, and what they refuse or break on becomes an error for the client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from bough.common.errors import InvalidRequestError, ModelError
from bough.demo import model_dir
from bough.tokenizer.chat import parse_chat
from bough.tokenizer.encoding import read_tokenizer_config, special_tokens
from bough.tokenizer.template import ChatTemplates
from tests.helpers.tokenizer_files import CHATML, byte_level, write_model_dir

TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "a < b & c", "parameters": {"type": "object", "properties": {}}},
}
USER = {"role": "user", "content": "Hi <there> & 'you' — 中"}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich"}}}
CHATS: list[list[dict[str, Any]]] = [
    [USER],
    [{"role": "system", "content": "Be brief."}, USER, {"role": "assistant", "content": "Yes."}, USER],
    [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "18"}],
    [USER, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nSo."}],
    [USER, {"role": "assistant", "content": "So.", "reasoning": "hm"}],
]
TEMPLATES = {
    "chatml": CHATML,
    "llama2": (
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% else %}"
        "{% set loop_messages = messages %}{% endif %}{% for message in loop_messages %}"
        "{% if message.role == 'user' %}{{ bos_token + '[INST] ' + message.content.strip() + ' [/INST]' }}"
        "{% elif message.role == 'assistant' %}{{ ' ' + (message.content or '') | trim + ' ' + eos_token }}"
        "{% endif %}{% endfor %}"
    ),
    "blocks": (
        "{% for m in messages %}\n    {% if loop.index0 > 2 %}\n        {% break %}\n    {% endif %}\n"
        "    {% generation %}\n{{ m.role }}:{{ (m.content or '') | tojson }}\n    {% endgeneration %}\n{% endfor %}\n"
        "{{ tools | tojson(indent=2) if tools else 'none' }} {{ documents is none }} {{ extra is defined }}\n"
    ),
    "scope": (
        "{% set ns = namespace(n=0) %}{% set x = 1 %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
        "{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}{% endfor %}{{ ns.n }}"
        "{{ messages[-1].reasoning_content }}{{ messages[-1].thinking }}"
        "{{ {'b': 1, 'a': '<'} | tojson(sort_keys=true) }}"
    ),
}


def _load(path: Path) -> ChatTemplates:
    config = read_tokenizer_config(path)
    return ChatTemplates.from_directory(path, config, special_tokens(path, config))


def _render(path: Path, messages: object, tools: object = None, **options: Any) -> str:
    flags = {k: options.pop(k) for k in ("add_generation_prompt", "continue_final_message") if k in options}
    tools_json = json.dumps(tools) if tools else ""
    return _load(path).render(parse_chat(json.dumps(messages), tools_json, json.dumps(options), **flags))


@pytest.mark.parametrize("messages", CHATS)
@pytest.mark.parametrize("tools", [None, [TOOL]])
@pytest.mark.parametrize("template", TEMPLATES)
def test_rendering_equals_transformers(
    tmp_path: Path, template: str, tools: Any, messages: list[dict[str, Any]]
) -> None:
    if template in ("chatml", "llama2"):
        messages = [{**m, "content": m["content"] or ""} for m in messages]
    write_model_dir(
        tmp_path,
        byte_level(),
        chat_template=TEMPLATES[template],
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
    )
    theirs = AutoTokenizer.from_pretrained(str(tmp_path)).apply_chat_template(
        messages, tools=tools, tokenize=False, add_generation_prompt=True, extra=1
    )
    assert _render(tmp_path, messages, tools, add_generation_prompt=True, extra=1) == theirs


@pytest.mark.parametrize("messages", CHATS)
@pytest.mark.parametrize("thinking", [True, False])
def test_the_demo_models_template_renders_as_in_transformers(messages: list[dict[str, Any]], thinking: bool) -> None:
    theirs = AutoTokenizer.from_pretrained(str(model_dir())).apply_chat_template(
        messages, tools=[TOOL], tokenize=False, add_generation_prompt=True, enable_thinking=thinking
    )
    assert _render(model_dir(), messages, [TOOL], add_generation_prompt=True, enable_thinking=thinking) == theirs


@pytest.mark.parametrize("content", ["Once upon", "trailing  ", [{"type": "text", "text": "Once "}]])
@pytest.mark.parametrize("template", ["chatml", "llama2"])
def test_a_continued_final_message_ends_as_in_transformers(tmp_path: Path, template: str, content: Any) -> None:
    config = {"chat_template": TEMPLATES[template], "bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    write_model_dir(tmp_path, byte_level(), **config)
    messages = [USER, {"role": "assistant", "content": content}]
    flat = [USER, {"role": "assistant", "content": content if isinstance(content, str) else content[0]["text"]}]
    theirs = AutoTokenizer.from_pretrained(str(tmp_path)).apply_chat_template(
        flat, tokenize=False, continue_final_message=True
    )
    assert _render(tmp_path, messages, continue_final_message=True) == theirs


def test_a_chat_with_tools_takes_the_template_named_tool_use(tmp_path: Path) -> None:
    templates = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    write_model_dir(tmp_path, byte_level(), chat_template=templates)
    assert [_render(tmp_path, [USER]), _render(tmp_path, [USER], [TOOL])] == ["plain", "tools"]


def test_a_template_file_wins_over_the_configuration(tmp_path: Path) -> None:
    write_model_dir(tmp_path, byte_level(), chat_template="old")
    (tmp_path / "chat_template.jinja").write_text("new")
    assert _render(tmp_path, [USER]) == "new"


def test_text_parts_become_a_string_for_templates_that_know_only_strings(tmp_path: Path) -> None:
    write_model_dir(tmp_path, byte_level(), chat_template="{{ messages[0].content }}")
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert _render(tmp_path, [{"role": "user", "content": parts}]) == "a\nb"
    with pytest.raises(InvalidRequestError, match=r"messages messages\[0\]\.content\[0\] is 'image_url'"):
        _render(tmp_path, [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}])


def test_text_parts_stay_parts_for_templates_that_walk_through_them(tmp_path: Path) -> None:
    write_model_dir(
        tmp_path, byte_level(), chat_template="{% for p in messages[0]['content'] %}<{{ p.text }}>{% endfor %}"
    )
    assert _render(tmp_path, [{"role": "user", "content": [{"text": "a"}, {"text": "b"}]}]) == "<a><b>"


def test_arguments_given_as_a_string_reach_the_template_as_an_object(tmp_path: Path) -> None:
    write_model_dir(tmp_path, byte_level(), chat_template="{{ messages[0].tool_calls[0].function.arguments | tojson }}")
    call = {"function": {"name": "f", "arguments": '{"a":1}'}}
    assert _render(tmp_path, [{"role": "assistant", "tool_calls": [call]}]) == '{"a": 1}'


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (
            "{{ raise_exception('Only user roles, got ' + messages[0].role) }}",
            "refuses them: Only user roles, got user",
        ),
        ("{{ messages[0].nothing.more }}", "refuses them: .*nothing"),
        ("{{ messages[0].content + 1 }}", "fails on them: TypeError"),
        ("{{ messages.__class__.__mro__ }}", "refuses them: access to attribute '__class__'"),
        ("{{ messages.append(1) }}", "refuses them"),
        ("{% for i in range(10 ** 9) %}x{% endfor %}", "OverflowError"),
        ("{{ 'x' * 10 ** 12 }}", "repeated 1000000000000 times"),
        ("{{ 9 ** 99 }}", "exponent 99"),
    ],
)
def test_a_template_that_fails_is_the_clients_error(tmp_path: Path, template: str, says: str) -> None:
    write_model_dir(tmp_path, byte_level(), chat_template=template)
    with pytest.raises(InvalidRequestError, match=says):
        _render(tmp_path, [USER])


def test_a_template_that_writes_without_end_is_cut_off(tmp_path: Path) -> None:
    row = "{% for i in range(100000) %}{{ 'x' * 1000 }}{% endfor %}"
    write_model_dir(tmp_path, byte_level(), chat_template=row)
    with pytest.raises(InvalidRequestError, match="longer than"):
        _render(tmp_path, [USER])


def test_a_template_that_does_not_compile_is_named_at_start(tmp_path: Path) -> None:
    write_model_dir(tmp_path, byte_level(), chat_template="line\n{% if %}")
    with pytest.raises(ModelError, match=r"'default'.*wrong at line 2"):
        _load(tmp_path)


def test_a_model_without_a_template_refuses_chats(tmp_path: Path) -> None:
    write_model_dir(tmp_path, byte_level())
    with pytest.raises(InvalidRequestError, match="no chat template"):
        _render(tmp_path, [USER])


def test_a_lone_surrogate_is_named_where_it_is(tmp_path: Path) -> None:
    write_model_dir(tmp_path, byte_level(), chat_template=CHATML)
    with pytest.raises(InvalidRequestError, match=r"messages\[1\]\.content holds a lone surrogate \(U\+D800\)"):
        _render(tmp_path, [USER, {"role": "user", "content": "a\ud800b"}])


@pytest.mark.parametrize(
    ("messages", "options", "says"),
    [
        ([{"role": "user"}], {"continue_final_message": True}, "no text content"),
        ([USER], {"continue_final_message": True, "add_generation_prompt": True}, "cannot be combined"),
        ([USER], {"chat_template": "x"}, "must not set chat_template"),
        ([], {}, "is empty"),
    ],
)
def test_contradicting_options_are_refused(
    tmp_path: Path, messages: list[dict[str, Any]], options: dict[str, Any], says: str
) -> None:
    write_model_dir(tmp_path, byte_level(), chat_template=CHATML)
    with pytest.raises(InvalidRequestError, match=says):
        _render(tmp_path, messages, **options)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("{",), "messages is not valid JSON"),
        (('{"role": "user"}',), "messages must be a JSON array of objects, got object"),
        (("[1]",), r"messages\[0\] must be an object, got number"),
        (("[NaN]",), "messages is not valid JSON: NaN"),
        (("[" * 100_000,), "messages is nested too deeply"),
        (("[{}]", "[true]"), r"tools\[0\] must be an object, got boolean"),
        (("[{}]", "[]", "[]"), "template_kwargs must be a JSON object, got array"),
    ],
)
def test_malformed_input_is_named(arguments: tuple[str, ...], says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        parse_chat(*arguments)
