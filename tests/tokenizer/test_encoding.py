"""Encoding equals transformers' on the same files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from bough.common.errors import ModelError
from bough.demo import model_dir
from bough.tokenizer.encoding import TextEncoder, special_tokens
from tests.helpers.tokenizer_files import SENTENCES, byte_fallback, byte_level, write_model_dir

TEXTS = [
    *SENTENCES,
    "",
    " ",
    "  two  spaces ",
    "\n\n",
    "<|im_start|>user",
    "</s> <s>x",
    "ÿ\x00\x7f",
    "\U0001d518\U0001d52b",
]


def _both(path: Path, add_special_tokens: bool) -> tuple[list[list[int]], list[list[int]]]:
    ours = TextEncoder.from_directory(path)
    theirs = AutoTokenizer.from_pretrained(str(path))
    return (
        ours.encode(TEXTS, add_special_tokens=add_special_tokens),
        [theirs.encode(text, add_special_tokens=add_special_tokens) for text in TEXTS],
    )


@pytest.mark.parametrize("add_special_tokens", [True, False])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"add_bos_token": True, "bos_token": "<|endoftext|>"},
        {"add_eos_token": True, "eos_token": "<|im_end|>"},
        {"add_bos_token": True, "add_eos_token": True, "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
        {"add_bos_token": True, "bos_token": None},
    ],
)
def test_byte_level_ids_equal_transformers(tmp_path: Path, config: dict[str, object], add_special_tokens: bool) -> None:
    write_model_dir(tmp_path, byte_level(), **config)
    ours, theirs = _both(tmp_path, add_special_tokens)
    assert ours == theirs


@pytest.mark.parametrize("add_special_tokens", [True, False])
@pytest.mark.parametrize("config", [{}, {"add_bos_token": False, "bos_token": "<s>"}])
def test_byte_fallback_ids_equal_transformers(
    tmp_path: Path, config: dict[str, object], add_special_tokens: bool
) -> None:
    write_model_dir(tmp_path, byte_fallback(), **config)
    ours, theirs = _both(tmp_path, add_special_tokens)
    assert ours == theirs
    assert (ours[0][0] == 1) == add_special_tokens


def test_demo_model_ids_equal_transformers() -> None:
    ours, theirs = _both(model_dir(), True)
    assert ours == theirs


def test_truncation_in_the_file_is_not_applied(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    write_model_dir(tmp_path, tokenizer)
    (ids,) = TextEncoder.from_directory(tmp_path).encode([SENTENCES[0] * 3], add_special_tokens=True)
    assert ids == byte_level().encode(SENTENCES[0] * 3).ids


def test_special_tokens_are_read_from_both_files(tmp_path: Path) -> None:
    (tmp_path / "special_tokens_map.json").write_text(
        json.dumps({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "additional_special_tokens": ["<x>"]})
    )
    assert special_tokens(tmp_path, {"eos_token": "<|im_end|>", "bos_token": None}) == {
        "bos_token": "<s>",
        "eos_token": "<|im_end|>",
    }


@pytest.mark.parametrize("content", [None, "{", '{"model": 1}'])
def test_a_missing_or_broken_tokenizer_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        TextEncoder.from_directory(tmp_path)
