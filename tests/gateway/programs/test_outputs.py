"""Which tokens of an output become part of its state."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bough.common.sampling import FinishReason
from bough.gateway.generate import Output
from bough.gateway.programs.outputs import kept_ids

_LONGER = (b"ab", b"ba", b"a\n", b"\n\n", b"abab", b"b\nQ", b"\xc3\xa9b", b"\x80\xe2", b"")
PIECES = [*(bytes([i]) for i in range(256)), *_LONGER]
"""The vocabulary: a token is some bytes; text need not begin or end with a token."""

EOS = len(PIECES) - 1


def text_of(tokens: Sequence[int]) -> str:
    return b"".join(PIECES[token] for token in tokens).decode(errors="replace")


async def decode(lists: Sequence[Sequence[int]]) -> list[str]:
    return [text_of(tokens) for tokens in lists]


async def encode(text: str) -> tuple[int, ...]:
    return tuple(text.encode())


async def kept(output: Output, tail: Sequence[int] = (65,), *, include_stop: bool = False) -> tuple[int, ...]:
    return await kept_ids(output, tail=tail, include_stop=include_stop, eos=(EOS,), decode=decode, encode=encode)


def stopped(tail: Sequence[int], tokens: Sequence[int], stop: str, *, include_stop: bool) -> Output | None:
    """An output as the detokenizer ends it at a stop string; None where there is none in it."""
    before = len(text_of(tail).rstrip("\ufffd"))
    for end in range(1, len(tokens) + 1):
        whole = text_of([*tail, *tokens[:end]])
        # An unfinished character is held back, and may be no part of a stop string.
        at = whole.rstrip("\ufffd").find(stop, before)
        if at >= 0:
            shown = at + len(stop) if include_stop else at
            return Output(whole[before:shown], list(tokens[:end]), FinishReason.STOP_STRING, stop)
    return None


async def test_what_ended_an_output_is_no_part_of_it() -> None:
    assert await kept(Output("ab", [97, 98, EOS], FinishReason.STOP)) == (97, 98)
    assert await kept(Output("ab", [97, 98, 10], FinishReason.STOP)) == (97, 98)


async def test_a_stop_token_that_is_shown_is_kept_unless_it_ends_sequences() -> None:
    assert await kept(Output("ab\n", [97, 98, 10], FinishReason.STOP), include_stop=True) == (97, 98, 10)
    assert await kept(Output("ab", [97, 98, EOS], FinishReason.STOP), include_stop=True) == (97, 98)


async def test_an_output_that_was_cut_short_is_kept_whole() -> None:
    assert await kept(Output("ab", [97, 98, EOS], FinishReason.LENGTH)) == (97, 98, EOS)


async def test_tokens_before_a_stop_string_stay_and_the_text_between_is_encoded_again() -> None:
    ab, a_line, abab = PIECES.index(b"ab"), PIECES.index(b"a\n"), PIECES.index(b"abab")
    output = Output("ababa", [abab, a_line, 10], FinishReason.STOP_STRING, "\n\n")
    assert await kept(output) == (abab, 97)
    output = Output("abab", [ab, ab, 10], FinishReason.STOP_STRING, "\n")
    assert await kept(output) == (ab, ab)


@pytest.mark.parametrize("length", [20, 500])
async def test_a_stop_string_of_many_tokens_is_found(length: int) -> None:
    stop = "x" * length + "y"
    tokens = [*b"abc" * 50, EOS, EOS, *stop.encode()]
    output = Output("abc" * 50, tokens, FinishReason.STOP_STRING, stop)
    found = await kept(output)
    assert text_of(found) == "abc" * 50
    # Not all places are looked at where there are many, but most tokens stay.
    assert len(found) >= 100


async def test_a_stop_string_that_is_not_found_has_all_text_encoded_again() -> None:
    assert await kept(Output("ab", [97, 98, 99], FinishReason.STOP_STRING, "nowhere")) == (97, 98)


@given(
    tail=st.lists(st.sampled_from([65, 0xC3, 0xE2, *b"ab"]), min_size=1, max_size=4),
    tokens=st.lists(
        st.sampled_from([*b"ab\n", *range(256, len(PIECES)), 0xC3, 0xA9, 0xE2, 0x82, 0xAC]), min_size=1, max_size=24
    ),
    stop=st.sampled_from(["\n", "ab", "\n\n", "aba", "é", "€b", "b\nQ"]),
    include_stop=st.booleans(),
)
@example(tail=[0xC3], tokens=[0xA9, *b"a", 10], stop="\n", include_stop=False)
@example(tail=[65], tokens=[PIECES.index(b"b\nQ")], stop="\n", include_stop=True)
async def test_a_state_is_the_text_that_was_shown(
    tail: list[int], tokens: list[int], stop: str, include_stop: bool
) -> None:
    output = stopped(tail, tokens, stop, include_stop=include_stop)
    if output is None or "\ufffd" in text_of([*tail, *tokens]):
        return
    found = await kept(output, tail, include_stop=include_stop)
    assert text_of([*tail, *found]) == text_of(tail).rstrip("\ufffd") + output.text
    # Whatever lies wholly before the end is kept as it was.
    same = next((i for i, (a, b) in enumerate(zip(found, output.tokens, strict=False)) if a != b), len(found))
    if same < len(output.tokens):
        grown = text_of([*tail, *output.tokens[: same + 1]])
        shown = text_of([*tail, *found])
        assert not shown.startswith(grown) or "\ufffd" in grown
