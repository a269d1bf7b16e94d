"""Logits that are not finite: what the request computed may be worth nothing, and is used by nobody after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from bough.common.sampling import FinishReason
from bough.executor.orders import Admission
from bough.executor.runner import ModelRunner
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.engine_fuzz import check_nothing_is_lost
from tests.helpers.engines import (
    EngineDriver,
    admission,
    generate,
    load_runner,
    make_delayed_engine,
    make_engine,
    random_tokens,
)

BAD = 511
"""Token whose embedding is no number for a while."""
GOOD = random_tokens(48, 1, BAD)
"""Three whole pages."""


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> ModelRunner:
    """Not tied: what is wrong with the embedding must not be in the head too."""
    return load_runner(write_checkpoint("llama2", tmp_path_factory.mktemp("model")))


@pytest.fixture(params=[1, 3])
def driver(runner: ModelRunner, request: pytest.FixtureRequest) -> EngineDriver:
    """Of an engine that waits for each step, and of one that runs ahead."""
    depth: int = request.param
    return EngineDriver(make_engine(runner) if depth == 1 else make_delayed_engine(runner, depth=depth)[0])


@contextmanager
def poisoned(runner: ModelRunner) -> Iterator[None]:
    """While this lasts, keys and values computed from `BAD` are no numbers."""
    embedding = runner._model._embedding
    with torch.inference_mode():
        kept = embedding[BAD].clone()
        embedding[BAD] = torch.nan
    try:
        yield
    finally:
        with torch.inference_mode():
            embedding[BAD] = kept


def request(number: int, prompt: list[int], **sampling: Any) -> Admission:
    return admission(number, prompt, logit_bias=((BAD, -100.0),), **sampling)


def alone(runner: ModelRunner, prompt: list[int]) -> list[int]:
    return generate(make_engine(runner), request(1, prompt))[0]


def fail(driver: EngineDriver, runner: ModelRunner, *requests: Admission) -> None:
    with poisoned(runner):
        driver.admit(*requests)
        driver.run()
    for entry in requests:
        assert driver.finish[entry.request] is FinishReason.ERROR
        assert "not finite" in driver.failures[entry.request].message
    check_nothing_is_lost(driver.engine)


@pytest.mark.parametrize("length", [1, 9, 16, 40, 100])
@pytest.mark.parametrize("num_requests", [1, 3])
def test_a_prompt_that_failed_is_computed_anew_by_the_next_request(
    runner: ModelRunner, driver: EngineDriver, length: int, num_requests: int
) -> None:
    prompt = [BAD, *random_tokens(length - 1, 2, BAD)]
    fail(driver, runner, *(request(number, prompt) for number in range(1, num_requests + 1)))
    assert not driver.pages and driver.gauges.pages_cached == 0
    driver.admit(request(10, prompt))
    driver.run()
    assert driver.cached[10] == 0
    assert driver.tokens[10] == alone(runner, prompt)


def test_a_chunked_prompt_that_failed_leaves_none_of_its_chunks(runner: ModelRunner) -> None:
    driver = EngineDriver(make_delayed_engine(runner, max_rows=4, token_budget=20)[0])
    prompt = [*random_tokens(70, 3, BAD), BAD, *random_tokens(30, 4, BAD)]
    fail(driver, runner, request(1, prompt))
    driver.admit(request(2, prompt))
    driver.run()
    assert (driver.cached[2], driver.tokens[2]) == (0, alone(runner, prompt))


def test_what_a_request_that_failed_found_in_the_cache_stays_there(runner: ModelRunner, driver: EngineDriver) -> None:
    driver.admit(request(1, GOOD))
    driver.run()
    pages = set(driver.pages)
    prompt = [*GOOD, BAD, *random_tokens(40, 5, BAD)]
    fail(driver, runner, request(2, prompt))
    assert driver.pages == pages
    driver.admit(request(3, prompt), request(4, [*GOOD, 7]))
    driver.run()
    assert (driver.cached[3], driver.cached[4]) == (48, 48)
    assert driver.tokens[3] == alone(runner, prompt)
    assert driver.tokens[4] == alone(runner, [*GOOD, 7])


def test_pages_that_others_still_hold_are_found_by_nobody_after_them(runner: ModelRunner) -> None:
    """Every request begins before the one ahead of it has ended: the pages are never without a user."""
    engine, _ = make_delayed_engine(runner, depth=3)
    driver = EngineDriver(engine)
    prompt = [BAD, *random_tokens(47, 6, BAD)]
    with poisoned(runner):
        driver.admit(request(1, prompt))
        driver.step()
    number = 1
    while 1 not in driver.finish:
        number += 1
        driver.admit(request(number, [*prompt, number]))
        driver.step()
    number += 1
    driver.admit(request(number, [*prompt, number]))
    driver.run()
    assert driver.failures.keys() >= {1, 2} and number not in driver.failures
    assert driver.tokens[number] == alone(runner, [*prompt, number])
    check_nothing_is_lost(engine)


def test_a_request_cancelled_before_its_logits_are_known_leaves_nothing_that_is_no_number(runner: ModelRunner) -> None:
    engine, _ = make_delayed_engine(runner, depth=3)
    driver = EngineDriver(engine)
    prompt = [BAD, *random_tokens(47, 7, BAD)]
    with poisoned(runner):
        driver.admit(request(1, prompt))
        driver.step()
        assert engine.is_under_way
        driver.cancel(1)
        driver.run()
    driver.admit(request(2, prompt))
    driver.run()
    assert (driver.cached[2], driver.tokens[2]) == (0, alone(runner, prompt))


def test_a_request_that_ends_for_another_reason_leaves_its_pages_in_the_cache(driver: EngineDriver) -> None:
    allowed_nothing = tuple((token, -torch.inf) for token in range(512))
    driver.admit(admission(1, GOOD, logit_bias=allowed_nothing))
    driver.run()
    assert driver.finish[1] is FinishReason.ERROR and "no token is allowed" in driver.failures[1].message
    driver.admit(request(2, GOOD))
    driver.run()
    assert driver.cached[2] == 47
