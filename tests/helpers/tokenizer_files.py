"""Tiny tokenizers of the shapes that real models have, trained on a few sentences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SENTENCES = [
    "The quick brown fox jumps over the lazy dog, twice.",
    "Hello there! How are you? I'm fine, thank you; and you?",
    'A JSON object: {"name": "Ada", "age": 36, "tags": ["x", "y"]}',
    "naïve café Zürich Ærøskøbing 中文字符 日本語 한국어 😀😁 αβγ",
    "def f(x):\n    return x + 1\n\n\n\tindented",
]

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def byte_level() -> Tokenizer:
    """GPT-2's shape: byte-level BPE, with ChatML's special tokens and an added token that is not special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|a b|>"])
    tokenizer.add_tokens([AddedToken("<think>", special=False), AddedToken("né", special=False)])
    return tokenizer


def byte_fallback() -> Tokenizer:
    """Llama 2's shape: SentencePiece-like BPE with byte fallback, "▁" for spaces and a beginning-of-sequence token."""
    base = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    base.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=special, limit_alphabet=60, initial_alphabet=["▁"], show_progress=False
    )
    base.train_from_iterator(SENTENCES[:3], trainer)
    parsed = json.loads(base.to_str())
    # The trainer marks all of these as added tokens; in a real file the byte tokens are ordinary ones.
    parsed["added_tokens"] = [token for token in parsed["added_tokens"] if not token["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(parsed))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def metaspace() -> Tokenizer:
    """T5's shape: a unigram model whose decoder is Metaspace alone."""
    pieces = ["▁", "▁the", "▁a", "b", "a", "c", "▁b▁c", "the", "é", "中"]
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), *((piece, -1.0 - i) for i, piece in enumerate(pieces))], 0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["</s>"])
    return tokenizer


def word_piece() -> Tokenizer:
    """BERT's shape, whose decoder is none of those that are streamed by bytes."""
    words = ["[UNK]", "the", "fox", "##es", "##y", "dog", ",", ".", "'", "s", "run", "##ning", "é"]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[SEP]"])
    return tokenizer


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token that must exist."""
    found = tokenizer.token_to_id(token)
    assert found is not None, token
    return int(found)


def write_model_dir(path: Path, tokenizer: Tokenizer, **config: Any) -> Path:
    """Write a model directory without weights; `config` goes to tokenizer_config.json."""
    path.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path / "tokenizer.json"))
    entries = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    (path / "tokenizer_config.json").write_text(json.dumps(entries))
    model = {
        "model_type": "qwen3",
        "vocab_size": tokenizer.get_vocab_size(),
        "max_position_embeddings": 1024,
        "eos_token_id": tokenizer.token_to_id(str(config.get("eos_token", ""))) or 0,
    }
    (path / "config.json").write_text(json.dumps(model))
    return path


def write_chat_model(path: Path, **config: Any) -> Path:
    """A byte-level model directory with a ChatML template."""
    defaults = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": CHATML}
    return write_model_dir(path, byte_level(), **{**defaults, **config})
