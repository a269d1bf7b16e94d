"""Which choice wins, by each method."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bough.lang.choices import (
    ChoiceLogprobs,
    ChoicesMethod,
    decide,
    greedy_token_selection,
    token_length_normalized,
    unconditional_likelihood_normalized,
)


def choice(*tokens: tuple[str, float], unconditional: tuple[float, ...] = ()) -> ChoiceLogprobs:
    names, logprobs = zip(*tokens, strict=True)
    return ChoiceLogprobs(tokens=names, logprobs=logprobs, unconditional=unconditional)


SHORT = choice(("no", -1.0))
LONG = choice(("yes", -1.5), (" it", -0.2), (" is", -0.2))


def best(method: ChoicesMethod, *found: ChoiceLogprobs) -> int:
    names = [str(number) for number in range(len(found))]
    return int(decide(names, found, method)[0].choice)


def test_length_does_not_count_where_it_is_normalized() -> None:
    assert best(token_length_normalized, SHORT, LONG) == 1


def test_greedy_selection_takes_the_likeliest_first_token() -> None:
    assert best(greedy_token_selection, SHORT, LONG) == 0


def test_greedy_selection_goes_on_among_choices_that_share_a_token() -> None:
    # The log probabilities of a shared token differ a little, as they may in two rows of a batch.
    one = choice(("the", -1.0), (" end", -3.0))
    other = choice(("the", -1.0001), (" start", -0.5))
    assert best(greedy_token_selection, one, other, choice(("a", -2.0))) == 1


def test_greedy_selection_lets_a_shorter_choice_go_on_with_its_mean() -> None:
    short, long = choice(("one", -1.0)), choice(("one", -1.0), (" two", -0.5))
    assert best(greedy_token_selection, short, long) == 1
    assert best(greedy_token_selection, short, choice(("one", -1.0), (" two", -1.5))) == 0


def test_what_is_likely_anyway_counts_less() -> None:
    likely = choice(("yes", -1.0), unconditional=(-1.0,))
    surprising = choice(("perhaps", -2.0), unconditional=(-6.0,))
    assert best(token_length_normalized, likely, surprising) == 0
    assert best(unconditional_likelihood_normalized, likely, surprising) == 1


def test_choices_come_best_first_with_their_scores() -> None:
    scores = decide(["no", "yes it is"], [SHORT, LONG], token_length_normalized)
    assert [score.choice for score in scores] == ["yes it is", "no"]
    assert [score.score for score in scores] == [pytest.approx(-1.9 / 3), -1.0]


@given(st.lists(st.lists(st.floats(-10, 0), min_size=1, max_size=4), min_size=1, max_size=5))
def test_every_method_picks_one_of_the_choices_and_greedy_one_with_the_likeliest_first_token(
    rows: list[list[float]],
) -> None:
    found = [
        ChoiceLogprobs(
            tokens=tuple(f"{number}.{i}" for i in range(len(row))), logprobs=tuple(row), unconditional=tuple(row)
        )
        for number, row in enumerate(rows)
    ]
    for method in ChoicesMethod:
        assert sorted(score.choice for score in decide([str(i) for i in range(len(rows))], found, method)) == sorted(
            str(i) for i in range(len(rows))
        )
    winner = best(greedy_token_selection, *found)
    assert rows[winner][0] == max(row[0] for row in rows)
