from __future__ import annotations

from itertools import islice

import pytest

from bough.load.scenarios import SCENARIOS, Options, shared_prefix, soak, tokens

OPTIONS = Options(model="m", output_tokens=32)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_same_seed_gives_the_same_requests_and_another_one_others(name: str) -> None:
    source = SCENARIOS[name].requests
    first, again = (list(islice(source(OPTIONS), 20)) for _ in range(2))
    assert first == again
    assert first != list(islice(source(Options(model="m", output_tokens=32, seed=1)), 20))


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_says_when_it_ends_and_how_requests_arrive(name: str) -> None:
    scenario = SCENARIOS[name]
    assert scenario.num_requests or scenario.duration_s
    assert (scenario.arrivals.concurrency is None) != (scenario.arrivals.rate_per_s is None)


@pytest.mark.parametrize("name", SCENARIOS)
def test_streams_ask_for_their_usage_and_whole_answers_do_not(name: str) -> None:
    streamed, whole = (next(SCENARIOS[name].requests(Options(model="m", stream=how))) for how in (True, False))
    assert streamed.body["stream_options"] == {"include_usage": True}
    assert "stream_options" not in whole.body and whole.body["stream"] is False


def test_tokens_have_exact_lengths_and_no_end_of_their_own() -> None:
    request = next(tokens(Options(model="m", prompt_tokens=17, output_tokens=5, vocab_size=100)))
    assert len(request.body["prompt"]) == 17
    assert all(10 <= token < 100 for token in request.body["prompt"])
    assert request.body["max_tokens"] == 5 and request.body["ignore_eos"] is True


def test_a_shared_prefix_is_shared_by_every_eighth_request() -> None:
    requests = list(islice(shared_prefix(OPTIONS), 24))
    prefixes = [request.body["messages"][0]["content"] for request in requests]
    assert len(set(prefixes)) == 8 and prefixes[:8] == prefixes[8:16] == prefixes[16:]
    assert [request.label for request in requests].count("first of its prefix") == 8


def test_some_clients_of_a_soak_go_away_but_only_from_streams() -> None:
    leaving = [request.stop_after for request in islice(soak(OPTIONS), 400) if request.stop_after]
    assert 5 < len(leaving) < 60
    whole = islice(soak(Options(model="m", stream=False)), 400)
    assert not any(request.stop_after for request in whole)
