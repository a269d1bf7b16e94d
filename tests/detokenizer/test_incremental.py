"""Text comes out piece by piece and equals what decoding all tokens at once gives."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders

from bough.common.vocab import DecoderKind, parse_vocabulary
from bough.demo import model_dir
from bough.detokenizer.incremental import REPLACEMENT, TextStreams
from bough.detokenizer.token_table import TokenTable
from tests.helpers.tokenizer_files import SENTENCES, byte_fallback, byte_level, metaspace, token_id, word_piece


def _streams(tokenizer: Tokenizer) -> TextStreams:
    return TextStreams(TokenTable(parse_vocabulary(json.loads(tokenizer.to_str()))), tokenizer)


def _gemma() -> Tokenizer:
    """Byte fallback without a space at the beginning."""
    tokenizer = byte_fallback()
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _strips_three() -> Tokenizer:
    tokenizer = byte_fallback()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 3, 0)]
    )
    return tokenizer


MAKERS: dict[str, Callable[[], Tokenizer]] = {
    "byte level": byte_level,
    "byte fallback": byte_fallback,
    "gemma": _gemma,
    "strips three": _strips_three,
    "metaspace": metaspace,
    "demo": lambda: Tokenizer.from_file(str(model_dir() / "tokenizer.json")),
}
TOKENIZERS = {name: make() for name, make in MAKERS.items()}
STREAMS = {name: _streams(tokenizer) for name, tokenizer in TOKENIZERS.items()}


def _ids(name: str) -> st.SearchStrategy[list[int]]:
    """Real text, and any ids at all, unknown ones too, with short runs of bytes more often than by chance."""
    tokenizer = TOKENIZERS[name]
    some = st.lists(st.integers(0, tokenizer.get_vocab_size() + 3), max_size=12)
    small = st.lists(st.integers(0, 300), max_size=12)
    text = st.text(st.sampled_from(" ae中\n😀é\u0301\ud7ff\u2028▁x"), max_size=12).map(
        lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    )
    return st.lists(st.one_of(some, small, text), max_size=4).map(lambda parts: [i for part in parts for i in part])


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_the_pieces_of_any_tokens_are_the_full_decode(name: str, skip: bool, data: st.DataObject) -> None:
    ids = data.draw(_ids(name))
    assert STREAMS[name].decode(ids, skip_special_tokens=skip) == TOKENIZERS[name].decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("token", ["é", "âĤ", "ðŁĺ", "íł", "í¢", "í"])
def test_a_text_that_ends_within_a_character_is_the_full_decode(token: str) -> None:
    # The bytes of each by the table of byte-level vocabularies; two begin a surrogate, which no text has.
    tokenizer = TOKENIZERS["byte level"]
    ids = [token_id(tokenizer, byte) for byte in token]
    assert STREAMS["byte level"].decode(ids, skip_special_tokens=False) == tokenizer.decode(ids)


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_after_a_prompt_the_pieces_are_what_the_full_decode_adds(name: str, skip: bool, data: st.DataObject) -> None:
    tail, ids = data.draw(_ids(name)), data.draw(_ids(name))
    stream = STREAMS[name].new(skip_special_tokens=skip, prompt_tail=tail)
    text = "".join([*map(stream.push, ids), stream.flush()])
    prompt = TOKENIZERS[name].decode(tail, skip_special_tokens=skip)
    both = TOKENIZERS[name].decode(tail + ids, skip_special_tokens=skip)
    if both.startswith(prompt) and not prompt.endswith(REPLACEMENT):
        assert text == both.removeprefix(prompt) or _cut_by_the_tail(name, tail)
    else:
        # The output finishes the prompt's last character, or breaks the run of bytes that the prompt ended with.
        assert both.endswith(text) or _cut_by_the_tail(name, tail)


def _cut_by_the_tail(name: str, tail: list[int]) -> bool:
    """Whether the tail begins in the middle of a run of bytes, of which only a part can be judged."""
    table = STREAMS[name].table
    return bool(tail) and table.spec.byte_fallback and table.bytes_of(tail[0])[:1] >= b"\x80"


@pytest.mark.parametrize("name", MAKERS)
def test_real_text_survives_encoding_and_decoding(name: str) -> None:
    for sentence in SENTENCES:
        ids = TOKENIZERS[name].encode(sentence, add_special_tokens=False).ids
        assert STREAMS[name].decode(ids, skip_special_tokens=True) == TOKENIZERS[name].decode(ids)


def test_a_character_comes_out_with_the_token_that_completes_it() -> None:
    tokenizer = TOKENIZERS["byte level"]
    ids = [token_id(tokenizer, char) for char in "ðŁĺĢ"]
    stream = STREAMS["byte level"].new(skip_special_tokens=True)
    assert [stream.push(i) for i in ids] == ["", "", "", "😀"]


def test_a_character_begun_by_the_prompt_is_finished_by_the_output() -> None:
    for name, ids in {
        "byte level": [token_id(TOKENIZERS["byte level"], char) for char in "ðŁĺĢ"],
        "byte fallback": [token_id(TOKENIZERS["byte fallback"], f"<0x{b:02X}>") for b in "😀".encode()],
    }.items():
        stream = STREAMS[name].new(skip_special_tokens=True, prompt_tail=ids[:2])
        assert "".join([*map(stream.push, ids[2:]), stream.flush()]) == "😀"
        silent = STREAMS[name].new(skip_special_tokens=True, prompt_tail=ids[:2])
        assert silent.flush() == ""


def test_a_prompt_that_the_tail_cuts_inside_a_character_does_not_break_the_output() -> None:
    tokenizer = TOKENIZERS["byte fallback"]
    ids = [token_id(tokenizer, f"<0x{b:02X}>") for b in "中文".encode()]
    stream = STREAMS["byte fallback"].new(skip_special_tokens=True, prompt_tail=ids[1:3])
    assert "".join([*map(stream.push, ids[3:]), stream.flush()]) == "文"


def test_broken_runs_of_any_length_hold_nothing_back() -> None:
    """A broken run comes out byte by byte, and what is kept stays small however long it is."""
    level = STREAMS["byte level"].new(skip_special_tokens=True)
    lone = token_id(TOKENIZERS["byte level"], "Ģ")
    assert [level.push(lone) for _ in range(2000)] == [REPLACEMENT] * 2000
    fallback = STREAMS["byte fallback"].new(skip_special_tokens=True)
    byte = token_id(TOKENIZERS["byte fallback"], "<0x80>")
    assert [fallback.push(byte) for _ in range(2000)] == [REPLACEMENT] * 2000


@pytest.mark.parametrize("skip", [True, False])
def test_an_unrecognised_decoder_is_followed_through_the_library(skip: bool) -> None:
    tokenizer = word_piece()
    streams = _streams(tokenizer)
    assert streams.table.spec.kind is DecoderKind.UNKNOWN
    for ids in ([1, 2, 3, 6, 5, 7], [13, 1, 2, 13, 10, 11], [11, 3, 12], []):
        assert streams.decode(ids, skip_special_tokens=skip) == tokenizer.decode(ids, skip_special_tokens=skip)
        stream = streams.new(skip_special_tokens=skip, prompt_tail=[1, 2])
        text = "".join([*map(stream.push, ids), stream.flush()])
        expected = tokenizer.decode([1, 2, *ids], skip_special_tokens=skip)
        assert text == expected.removeprefix(tokenizer.decode([1, 2], skip_special_tokens=skip))


def test_an_unrecognised_decoder_without_its_tokenizer_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the tokenizer"):
        TextStreams(STREAMS["demo"].table.__class__(parse_vocabulary(json.loads(word_piece().to_str()))))


@given(data=st.binary(max_size=6))
def test_bytes_of_tokens_are_those_of_the_text(data: bytes) -> None:
    tokenizer, table = TOKENIZERS["demo"], STREAMS["demo"].table
    ids = tokenizer.encode(data.decode("latin-1"), add_special_tokens=False).ids
    assert b"".join(map(table.bytes_of, ids)).decode() == data.decode("latin-1")
    assert table.bytes_of(10**6) == b""
