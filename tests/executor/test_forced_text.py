"""Guesses of tokens: the tokenizer's cut at first, then what was produced."""

from __future__ import annotations

from pathlib import Path

import pytest

from bough.common.vocab import read_vocabulary, xgrammar_tokenizer_info
from bough.executor.forced_text import ForcedText
from tests.helpers.tokenizer_files import byte_level

TOKENIZER = byte_level()
TEXT = b"first_name of the house"


def ids(text: str) -> list[int]:
    found: list[int] = TOKENIZER.encode(text, add_special_tokens=False).ids
    return found


@pytest.fixture
def guesses(tmp_path: Path) -> ForcedText:
    TOKENIZER.save(str(tmp_path / "tokenizer.json"))
    info = xgrammar_tokenizer_info(read_vocabulary(tmp_path), vocab_size=512, stop_token_ids=[2])
    return ForcedText(tmp_path, info.decoded_vocab, adds_prefix_space=False)


def test_the_tokenizers_cut_comes_first(guesses: ForcedText) -> None:
    assert guesses.drafts(TEXT, 40, 0.4) == ids(TEXT.decode())
    assert guesses.drafts(TEXT, 3, 0.4) == ids(TEXT.decode())[:3]
    assert guesses.drafts(b"", 40, 0.4) == []


def test_what_was_produced_is_guessed_the_next_time(guesses: ForcedText) -> None:
    single = [ids(chr(byte))[0] for byte in TEXT]
    assert len(single) > len(ids(TEXT.decode()))
    guesses.note(TEXT, single)
    guesses.note(TEXT, single)
    # the chance of each is 3/4, and one has to be likely enough together with those before it
    assert guesses.drafts(TEXT, 40, 0.4) == single[:3]
    for _ in range(30):
        guesses.note(TEXT, single)
    assert guesses.drafts(TEXT, 40, 0.4) == single


def test_a_changed_mind_is_followed(guesses: ForcedText) -> None:
    single, cut = [ids(chr(byte))[0] for byte in TEXT], ids(TEXT.decode())
    for _ in range(40):
        guesses.note(TEXT, single)
    assert guesses.drafts(TEXT, 2, 0.4) == single[:2]
    for _ in range(40):
        guesses.note(TEXT, cut)
    assert guesses.drafts(TEXT, 2, 0.4) == cut[:2]


def test_a_coin_toss_is_not_guessed_far(guesses: ForcedText) -> None:
    single, cut = [ids(chr(byte))[0] for byte in TEXT], ids(TEXT.decode())
    place = next(i for i, (one, other) in enumerate(zip(single, cut, strict=False)) if one != other)
    rest = TEXT[place:]
    for _ in range(20):
        guesses.note(rest, single[place : place + 2])
        guesses.note(rest, cut[place : place + 1])
        guesses.note(rest[1:], ids("?"))
    assert len(guesses.drafts(rest, 40, 0.4)) <= 1


def test_a_tokenizer_that_is_often_wrong_is_asked_less(guesses: ForcedText) -> None:
    for number in range(40):
        text = f"the house number {number}"
        guesses.note(text.encode(), ids("?"))
    assert len(guesses.drafts(b"another text that nobody has seen", 40, 0.4)) < 3


def test_tokens_that_go_beyond_the_text_or_add_none_end_a_guess(guesses: ForcedText) -> None:
    word = next([token] for token in ids(TEXT.decode()) if len(TOKENIZER.decode([token])) > 1)
    start = TOKENIZER.decode(word)[:-1].encode()
    guesses.note(start, word)
    assert guesses.drafts(start, 5, 0.4) == word
    guesses.note(b"x", [2])  # a special token adds no text
    assert guesses.drafts(b"x", 5, 0.4) == [2]
