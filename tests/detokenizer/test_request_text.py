"""The end of a request's text: stop strings, stop tokens, what is held back, and how many tokens count."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from bough.common.sampling import FinishReason, TextOptions
from bough.common.vocab import parse_vocabulary
from bough.detokenizer.incremental import TextStreams
from bough.detokenizer.request_text import RequestText
from bough.detokenizer.token_table import TokenTable
from tests.helpers.tokenizer_files import byte_fallback, byte_level, token_id

LEVEL, FALLBACK = byte_level(), byte_fallback()


def _text(tokenizer: Tokenizer, *stop: str, include_stop: bool = False, skip: bool = True) -> RequestText:
    streams = TextStreams(TokenTable(parse_vocabulary(json.loads(tokenizer.to_str()))))
    return RequestText(streams, TextOptions(stop=stop, include_stop=include_stop, skip_special_tokens=skip), ())


def _bytes(text: str) -> list[int]:
    return [token_id(FALLBACK, f"<0x{byte:02X}>") for byte in text.encode()]


def _chars(text: str) -> list[int]:
    """One token a byte."""
    return [token_id(LEVEL, LEVEL.pre_tokenizer.pre_tokenize_str(char)[0][0]) for char in text]


@pytest.mark.parametrize(("include", "text"), [(False, "ab"), (True, "abEND")])
def test_a_stop_string_ends_the_text_across_tokens(include: bool, text: str) -> None:
    request = _text(LEVEL, "END", include_stop=include)
    pieces = [request.push([token]) for token in _chars("abEND")]
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.finish for piece in pieces[:-1]] == [FinishReason.NONE] * 4
    assert (pieces[-1].finish, pieces[-1].stop_string) == (FinishReason.STOP_STRING, "END")
    assert request.position == 5


@settings(deadline=None)
@given(
    text=st.text("ab中\n", max_size=12),
    stop=st.text("ab中\n", min_size=1, max_size=3),
    cuts=st.lists(st.integers(1, 4), min_size=12, max_size=12),
    tokenizer=st.sampled_from(["level", "fallback"]),
)
def test_text_and_number_of_tokens_do_not_depend_on_the_cut(
    text: str, stop: str, cuts: list[int], tokenizer: str
) -> None:
    ids = _chars(text.replace("中", "c")) if tokenizer == "level" else _bytes(text)
    if tokenizer == "level":
        text, stop = text.replace("中", "c"), stop.replace("中", "c")
    request = _text(LEVEL if tokenizer == "level" else FALLBACK, stop)
    passed, finish = "", FinishReason.NONE
    for cut in cuts:
        part, ids = ids[:cut], ids[cut:]
        piece = request.push(part, FinishReason.NONE if ids else FinishReason.LENGTH)
        passed, finish = passed + piece.text, piece.finish
        if finish is not FinishReason.NONE:
            break
    else:
        piece = request.push(ids, FinishReason.LENGTH)
        passed, finish = passed + piece.text, piece.finish
    at = text.find(stop)
    expected_end = len(text) if at < 0 else at + len(stop)
    assert passed == (text if at < 0 else text[:at])
    assert finish is (FinishReason.LENGTH if at < 0 else FinishReason.STOP_STRING)
    assert request.position == len(text[:expected_end].encode())


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("special", ["<|im_end|>", "<think>"])
def test_the_text_of_the_stop_token_is_left_out_special_or_not(special: str, skip: bool) -> None:
    ids = [*_chars("ab"), token_id(LEVEL, special)]
    request = _text(LEVEL, skip=skip)
    assert request.push(ids, FinishReason.STOP).text == "ab"
    assert request.position == 3
    included = _text(LEVEL, include_stop=True, skip=False)
    assert included.push(ids, FinishReason.STOP).text == f"ab{special}"


def test_text_held_for_a_stop_string_comes_out_at_the_end() -> None:
    request = _text(LEVEL, "xyz")
    assert request.push(_chars("axy")).text == "a"
    piece = request.push([], FinishReason.LENGTH)
    assert (piece.text, piece.finish, piece.stop_string) == ("xy", FinishReason.LENGTH, "")


def test_an_unfinished_character_comes_out_at_the_end() -> None:
    request = _text(LEVEL)
    assert request.push(_chars("a")).text == "a"
    assert request.push([token_id(LEVEL, "ð")], FinishReason.LENGTH).text == "\ufffd"


@pytest.mark.parametrize("finish", [FinishReason.LENGTH, FinishReason.STOP])
def test_a_stop_string_made_of_byte_tokens_counts_only_the_tokens_up_to_it(finish: FinishReason) -> None:
    request = _text(FALLBACK, "\n")
    a = token_id(FALLBACK, "a")
    assert request.push([a, *_bytes("\n"), *_bytes("bc")]).text == "a"
    piece = request.push([token_id(FALLBACK, "</s>")] if finish is FinishReason.STOP else [], finish)
    assert (piece.text, piece.finish, piece.stop_string) == ("", FinishReason.STOP_STRING, "\n")
    assert request.position == 2


@pytest.mark.parametrize("stop", [(), ("END",)])
def test_the_common_case_gives_the_same_as_the_general_one(stop: tuple[str, ...]) -> None:
    fast, slow = _text(LEVEL, *stop), _text(LEVEL, *stop)
    for token in LEVEL.encode("naïve 😀 END of").ids:
        text, piece = fast.push_one(token), slow.push([token])
        assert text == piece.text
        assert (fast.position, fast.offset) == (slow.position, slow.offset)
        if piece.finish is not FinishReason.NONE:
            assert fast.ended == piece
            break
    assert (fast.ended is not None) == bool(stop)
