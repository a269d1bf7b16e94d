"""The shipped checkpoint folder: size, shape, tokenizer and chat template."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from bough.demo import model_dir

_TOKENIZER = Tokenizer.from_file(str(model_dir() / "tokenizer.json"))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(str(model_dir()))


def test_the_folder_holds_what_a_server_needs() -> None:
    names = {path.name for path in model_dir().iterdir()}
    assert names == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_the_weights_are_bf16_and_small() -> None:
    path = model_dir() / "model.safetensors"
    assert path.stat().st_size <= 16_000_000
    with safe_open(str(path), framework="pt") as weights:
        dtypes = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
        num_parameters = sum(weights.get_tensor(name).numel() for name in weights.keys())  # noqa: SIM118
    assert dtypes == {"BF16"}
    assert num_parameters <= 8_000_000


def test_the_package_imports_without_torch() -> None:
    code = "import sys, bough.demo, bough.demo.questions; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_config_names_the_end_tokens_and_the_context_length() -> None:
    config = json.loads((model_dir() / "config.json").read_text())
    generation = json.loads((model_dir() / "generation_config.json").read_text())
    ends = [_TOKENIZER.token_to_id("<|im_end|>"), _TOKENIZER.token_to_id("<|endoftext|>")]
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["max_position_embeddings"] == 4096
    assert config["vocab_size"] == _TOKENIZER.get_vocab_size() == 4096
    assert generation["eos_token_id"] == ends


@given(st.text())
def test_any_text_comes_back_from_its_tokens(text: str) -> None:
    ids = _TOKENIZER.encode(text, add_special_tokens=False).ids
    assert _TOKENIZER.decode(ids, skip_special_tokens=False) == text


def test_digits_are_tokens_of_their_own() -> None:
    assert _TOKENIZER.encode("12345").tokens == list("12345")


def test_think_and_tool_marks_are_single_tokens_that_stay_in_the_text() -> None:
    for mark in ("<think>", "</think>", "<tool_call>", "</tool_call>"):
        ids = _TOKENIZER.encode(mark).ids
        assert len(ids) == 1
        assert _TOKENIZER.decode(ids, skip_special_tokens=True) == mark
    assert _TOKENIZER.decode(_TOKENIZER.encode("<|im_end|>").ids, skip_special_tokens=True) == ""


def _prompt(tokenizer: Any, messages: list[dict[str, Any]], **arguments: Any) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **arguments))


def test_thinking_is_off_unless_asked_for(tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    start = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert _prompt(tokenizer, messages) == start + "<think>\n\n</think>\n\n"
    assert _prompt(tokenizer, messages, enable_thinking=False) == start + "<think>\n\n</think>\n\n"
    assert _prompt(tokenizer, messages, enable_thinking=True) == start


def test_a_longer_chat_begins_with_the_tokens_of_the_shorter_one(tokenizer: Any) -> None:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    answered = [*messages, {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "Bye"}]
    assert _prompt(tokenizer, answered).startswith(_prompt(tokenizer, messages) + "Hello!<|im_end|>\n")


def test_earlier_thoughts_are_dropped_and_those_after_the_last_user_message_stay(tokenizer: Any) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "<think>\nold\n</think>\n\nfirst"},
        {"role": "user", "content": [{"type": "text", "text": "Two"}]},
        {"role": "assistant", "content": None, "reasoning_content": "new", "tool_calls": [call]},
        {"role": "tool", "content": "r1"},
        {"role": "tool", "content": "r2"},
    ]
    assert _prompt(tokenizer, messages, enable_thinking=True) == (
        "<|im_start|>user\nOne<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\nfirst<|im_end|>\n"
        "<|im_start|>user\nTwo<|im_end|>\n"
        "<|im_start|>assistant\n<think>\nnew\n</think>\n\n"
        '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\nr1\n</tool_response>\n<tool_response>\nr2\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_tools_follow_the_system_text(tokenizer: Any) -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "é <b>"}}
    text = _prompt(tokenizer, [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}], tools=[tool])
    assert text.startswith("<|im_start|>system\nS\n\nThese tools can be called")
    assert f"<tools>\n{json.dumps(tool, ensure_ascii=False)}\n</tools>" in text
