"""Stop strings are found wherever tokens cut them, and nothing of them leaks out before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bough.detokenizer.stops import StopFinder

_LETTERS = st.text("ab\n", max_size=20)
_STOPS = st.lists(st.text("ab\n", min_size=1, max_size=4), min_size=1, max_size=4)


def _reference(text: str, stops: list[str], include: bool) -> tuple[str, str]:
    """Character by character, by the definition."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            stop = max(complete, key=len)
            return text[: end if include else end - len(stop)], stop
    return text, ""


@given(pieces=st.lists(_LETTERS, max_size=8), stops=_STOPS, include=st.booleans())
def test_any_cut_gives_what_the_definition_gives(pieces: list[str], stops: list[str], include: bool) -> None:
    finder = StopFinder(stops, include_stop=include)
    passed, seen, found = "", "", ""
    for piece in pieces:
        seen += piece
        text, match = finder.push(piece)
        passed += text
        assert seen.startswith(passed)
        if match is not None:
            found = match.stop
            assert seen[: len(seen) - match.chars_behind].endswith(found)
            break
    else:
        passed += finder.flush()
    assert (passed, found) == _reference("".join(pieces), stops, include)


@given(text=_LETTERS, stops=_STOPS)
def test_only_what_may_become_a_stop_string_is_held_back(text: str, stops: list[str]) -> None:
    finder = StopFinder(stops)
    passed, match = finder.push(text)
    if match is None:
        held = text[len(passed) :]
        longest = max(
            (n for stop in stops for n in range(len(stop)) if n <= len(text) and text.endswith(stop[:n])), default=0
        )
        assert len(held) == longest


def test_the_stop_string_that_is_complete_first_wins() -> None:
    assert StopFinder(["abcd", "bc"]).push("xabcd") == ("xa", StopFinder(["bc"]).push("xabcd")[1])


def test_characters_with_a_meaning_in_patterns_are_ordinary() -> None:
    for stop in ("]", "^", "-", "\\", "[", ".", "\n\n"):
        text, match = StopFinder([stop]).push(f"ab{stop}c")
        assert (text, match is not None and match.stop) == ("ab", stop)


@pytest.mark.parametrize("stops", [[], [""], ["a", ""]])
def test_empty_stop_strings_are_refused(stops: list[str]) -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        StopFinder(stops)
