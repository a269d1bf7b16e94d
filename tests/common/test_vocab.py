"""What tokenizer.json says about decoding is recognised, and what is not recognised is not guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers

from bough.common.errors import ModelError
from bough.common.vocab import (
    DecoderKind,
    DecoderSpec,
    byte_level_alphabet,
    fallback_byte,
    parse_vocabulary,
    read_vocabulary,
)
from tests.helpers.tokenizer_files import byte_fallback, byte_level, metaspace, token_id, word_piece

PLAIN, UNKNOWN = DecoderKind.PLAIN, DecoderSpec(kind=DecoderKind.UNKNOWN)


def _spec(decoder: Any) -> DecoderSpec:
    tokenizer = byte_fallback()
    tokenizer.decoder = decoder
    return parse_vocabulary(json.loads(tokenizer.to_str())).decoder


@pytest.mark.parametrize(
    ("decoder", "spec"),
    [
        (decoders.ByteLevel(), DecoderSpec(kind=DecoderKind.BYTE_LEVEL)),
        (decoders.Sequence([decoders.ByteLevel()]), DecoderSpec(kind=DecoderKind.BYTE_LEVEL)),
        (decoders.Metaspace(), DecoderSpec(kind=PLAIN, replacements=(("▁", " "),), bare_first="▁")),
        (decoders.Metaspace(prepend_scheme="never"), DecoderSpec(kind=PLAIN, replacements=(("▁", " "),))),
        (
            decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]),
            DecoderSpec(kind=PLAIN, replacements=(("▁", " "),), byte_fallback=True),
        ),
        (
            decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]),
            DecoderSpec(kind=PLAIN, byte_fallback=True, strip_left=1),
        ),
        (decoders.Sequence([decoders.ByteFallback(), decoders.Strip(" ", 1, 0)]), UNKNOWN),
        (decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 0, 1)]), UNKNOWN),
        (decoders.Sequence([decoders.Fuse(), decoders.ByteFallback()]), UNKNOWN),
        (decoders.WordPiece(), UNKNOWN),
        (decoders.BPEDecoder(), UNKNOWN),
    ],
)
def test_decoders_are_recognised_or_left_to_the_library(decoder: Any, spec: DecoderSpec) -> None:
    assert _spec(decoder) == spec


def test_no_decoder_at_all_is_left_to_the_library() -> None:
    parsed = json.loads(byte_level().to_str())
    parsed["decoder"] = None
    assert parse_vocabulary(parsed).decoder == UNKNOWN


@pytest.mark.parametrize("make", [byte_level, byte_fallback, metaspace, word_piece])
def test_tokens_and_special_ids_are_those_of_the_library(make: Any, tmp_path: Path) -> None:
    tokenizer: Tokenizer = make()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    vocabulary = read_vocabulary(tmp_path)
    assert list(vocabulary.tokens) == [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    added = tokenizer.get_added_tokens_decoder()
    assert vocabulary.special_ids == {i for i, token in added.items() if token.special}


def test_a_hole_in_the_ids_is_none() -> None:
    parsed = json.loads(byte_level().to_str())
    parsed["added_tokens"][-1]["id"] += 2
    vocabulary = parse_vocabulary(parsed)
    assert vocabulary.tokens[-3:] == (None, None, parsed["added_tokens"][-1]["content"])


def test_the_alphabet_is_that_of_the_library() -> None:
    alphabet = byte_level_alphabet()
    assert set(alphabet) == set(pre_tokenizers.ByteLevel.alphabet()) and set(alphabet.values()) == set(range(256))
    tokenizer = byte_level()
    assert all(
        tokenizer.decode([token_id(tokenizer, char)]) == chr(byte) for char, byte in alphabet.items() if byte < 128
    )


@pytest.mark.parametrize(
    ("token", "byte"), [("<0x0A>", 10), ("<0xff>", 255), ("<0x0G>", None), ("x<0x0A>", None), ("<0x0A>\n", None)]
)
def test_byte_tokens_are_exactly_those_of_that_form(token: str, byte: int | None) -> None:
    assert fallback_byte(token) == byte


@pytest.mark.parametrize("content", [None, "{", "[]", '{"model": {}}', '{"model": {"vocab": {"a": "x"}}}'])
def test_a_missing_or_broken_file_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        read_vocabulary(tmp_path)
