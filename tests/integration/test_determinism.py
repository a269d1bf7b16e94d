"""The same seeded request gives the same tokens alone, in a full batch, after a cache hit and after a retraction."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.integration.client import Job, Outcome, stream_all
from tests.integration.server import Server

NUM_PAGES = 50
"""Room for 800 tokens: six requests of 300 tokens do not fit together, each of them alone does."""


def _seeded(number: int, max_tokens: int) -> Job:
    body = {
        "prompt": f"Guest {number} listens. Once upon a time there was a lighthouse whose keeper",
        "temperature": 1.0,
        "top_p": 0.95,
        "seed": 31 + number,
        "presence_penalty": 0.3,
        "ignore_eos": True,
        "max_tokens": max_tokens,
        "logprobs": 0,
    }
    return Job(kind="seeded", path="/v1/completions", body=body)


def _run(server: Server, *jobs: Job) -> list[Outcome]:
    outcomes = asyncio.run(stream_all(server.url, jobs))
    assert [outcome.error for outcome in outcomes] == [""] * len(jobs)
    return outcomes


def test_a_seeded_request_gives_the_same_tokens_alone_in_a_batch_of_32_and_after_a_cache_hit(server: Server) -> None:
    job = _seeded(1, 128)
    (alone,) = _run(server, job)
    crowd = _run(server, *(_seeded(number, 128) for number in range(32)))
    assert crowd[1].content == alone.content
    assert len({outcome.text for outcome in crowd}) == 32
    (after_hit,) = _run(server, job)
    assert after_hit.cached_tokens > 0
    assert after_hit.content == alone.content
    assert after_hit.logprobs == pytest.approx(alone.logprobs, abs=1e-4)


def test_siblings_sample_as_requests_with_the_next_seeds_do(server: Server) -> None:
    body = {"prompt": "Once upon a time", "temperature": 1.0, "max_tokens": 48}
    siblings = server.post("/v1/completions", **body, seed=100, n=3).json()["choices"]
    alone = [server.post("/v1/completions", **body, seed=100 + i).json()["choices"][0] for i in range(3)]
    assert [choice["text"] for choice in siblings] == [choice["text"] for choice in alone]


@pytest.fixture(scope="module")
def cramped() -> Iterator[Server]:
    with Server("--dtype", "float32", "--kv-pages", str(NUM_PAGES), "--max-context", "512") as running:
        yield running


def test_retracted_requests_go_on_with_the_same_tokens(cramped: Server) -> None:
    jobs = [_seeded(number, 300) for number in range(6)]
    alone = [_run(cramped, job)[0] for job in jobs]
    assert "bough_retractions_total" not in cramped.metrics().names
    together = _run(cramped, *jobs)
    assert cramped.metrics().total("bough_retractions_total") > 0
    assert [outcome.content for outcome in together] == [outcome.content for outcome in alone]
    cramped.wait_idle()
    assert sum(s.value for s in cramped.metrics().samples if s.name == "bough_kv_pages") == NUM_PAGES
