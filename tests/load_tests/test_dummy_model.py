from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from bough.load.dummy_model import write


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "qwen3-0.6b"
    began_s = time.perf_counter()
    write("qwen3-0.6b", path)
    assert time.perf_counter() - began_s < 10
    return path


def test_the_tokenizer_has_all_entries_and_gives_every_text_back(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 151_646
    for text in ("hello world", "Ünïcode, 文字 \n\t and 123", ""):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_the_ends_of_answers_are_special_tokens_of_the_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert [tokenizer.id_to_token(end) for end in ends] == ["<|im_end|>", "<|endoftext|>"]
    assert tokenizer.encode("a<|im_end|>").ids[-1] == ends[0]


def test_the_configuration_has_the_published_shape_and_there_are_no_weights(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    shape = [config[name] for name in ("hidden_size", "num_hidden_layers", "num_key_value_heads", "vocab_size")]
    assert shape == [1024, 28, 8, 151_936]
    assert not list(folder.glob("*.safetensors"))
