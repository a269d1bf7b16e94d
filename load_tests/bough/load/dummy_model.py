"""Model directories without weights, to measure speed with: `python -m bough.load.dummy_model qwen3-0.6b DIR`.

`config.json` has the shapes of a published Qwen3 model, and the tokenizer as many entries as that model's; engines fill
the weights with random numbers (`--load-format dummy`). The text is meaningless, but lengths and costs are real.
"""

from __future__ import annotations

import argparse
import itertools
import json
import string
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-0.6b": {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "tie_word_embeddings": True,
    },
    "qwen3-8b": {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "tie_word_embeddings": False,
    },
    "qwen3-14b": {
        "hidden_size": 5120,
        "intermediate_size": 17408,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "tie_word_embeddings": False,
    },
}
"""What differs between the models."""

_COMMON: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000,
    "rope_scaling": None,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "sliding_window": None,
    "use_sliding_window": False,
    "max_window_layers": 36,
    "initializer_range": 0.02,
    "use_cache": True,
    "dtype": "bfloat16",
    "torch_dtype": "bfloat16",
    "bos_token_id": 151643,
    "eos_token_id": 151645,
}

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_NUM_ORDINARY = 151643

_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def config_of(name: str) -> dict[str, Any]:
    """The configuration of a model of `SHAPES`. KeyError for another name."""
    return _COMMON | SHAPES[name]


def write(name: str, folder: Path) -> None:
    """Write the files of a model of `SHAPES`. KeyError for another name."""
    config = config_of(name)
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, Any] = {
        "config.json": config,
        "generation_config.json": {"eos_token_id": [151645, 151643]},
        "tokenizer.json": _tokenizer(),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "model_max_length": config["max_position_embeddings"],
            "chat_template": _CHAT_TEMPLATE,
        },
    }
    for file, content in files.items():
        (folder / file).write_text(json.dumps(content), encoding="utf-8")


def _byte_letters() -> list[str]:
    """The letter that stands for each byte in byte-level BPE (GPT-2): itself where printable, else one from 256 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = itertools.count(0x100)
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _tokenizer() -> dict[str, Any]:
    """A byte-level BPE in the format of `tokenizers`: the bytes, then words of lower-case letters, shortest first.

    Each word is merged from the word without its last letter and that letter; some words begin with a space.
    """
    letters = list(string.ascii_lowercase)
    vocab = {letter: number for number, letter in enumerate(sorted(_byte_letters()))}
    merges: list[tuple[str, str]] = []
    # Breadth first, so that every word's beginning is there before it: 27 + 27 * 26 + ... words until the list is full.
    words = [chr(0x120), *letters]
    for beginning in words:
        for letter in letters:
            if len(vocab) == _NUM_ORDINARY:
                break
            word = beginning + letter
            vocab[word] = len(vocab)
            merges.append((beginning, letter))
            words.append(word)
        if len(vocab) == _NUM_ORDINARY:
            break
    special = [
        {"id": _NUM_ORDINARY + number, "content": content, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for number, content in enumerate(_SPECIAL)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "vocab": vocab, "merges": merges, "byte_fallback": False, "fuse_unk": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": model | dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")),
    }


def main() -> None:
    """Write what the command line names."""
    parser = argparse.ArgumentParser(description="Write a model directory without weights.")
    parser.add_argument("name", choices=sorted(SHAPES))
    parser.add_argument("folder", type=Path, metavar="DIR")
    options = parser.parse_args()
    write(options.name, options.folder)


if __name__ == "__main__":
    main()
