"""The engine on the demo model: its own services, started by a Python program and gone with it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from bough.client import Client, UnauthorizedError
from bough.client.calls import Messages
from bough.common.config import SERVICES
from bough.common.errors import InvalidRequestError
from bough.engine import BatchError, ConfigError, Engine, EngineClosedError, EngineStartError, ModelError
from bough.lang import State, assistant, function, gen, user
from tests.integration.server import Metrics, environment, wait_until

SMALL: dict[str, Any] = {"max_rows": 16, "kv_pages": 512, "grammar_cache_dir": "off", "dtype": "float32"}


def services() -> set[psutil.Process]:
    """Processes that this one has started for engines."""
    return {child for child in psutil.Process().children() if "service" in child.cmdline()}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """One engine for most of these tests."""
    before = services()
    with Engine(**SMALL) as running:
        started = services() - before
        assert len(started) == len(SERVICES)
        yield running
    assert not any(process.is_running() for process in started)


def test_prompts_are_answered_in_their_order_whether_text_or_tokens(engine: Engine) -> None:
    prompts = [f"Once upon a time there were {number}" for number in range(40)]
    with Client(engine.url, api_key=engine.api_key) as client:
        ids = client.tokenize(prompts[0]).ids
        alone = [client.complete(prompt, max_tokens=4, temperature=0.0).text for prompt in prompts[:3]]
    found = engine.generate([*prompts, list(ids)], max_tokens=4, temperature=0.0)
    assert [completion.text for completion in found[:3]] == alone and found[-1].text == alone[0]
    assert len(found) == 41 and all(1 <= completion.usage.completion_tokens <= 4 for completion in found)
    assert engine.generate([]) == []


async def test_calls_that_are_awaited_give_the_same(engine: Engine) -> None:
    waited = engine.generate(["Once upon"], max_tokens=8, temperature=0.0)
    assert [entry.text for entry in await engine.agenerate(["Once upon"], max_tokens=8, temperature=0.0)] == [
        entry.text for entry in waited
    ]
    chats: list[Messages] = ["What is 7 plus 5?", [{"role": "user", "content": "What is the capital of Japan?"}]]
    answers = [answer.content for answer in await engine.achat(chats, temperature=0.0)]
    assert "12" in answers[0] and "Tokyo" in answers[1]
    assert [answer.content for answer in engine.chat(chats, temperature=0.0)] == answers


def test_an_item_that_fails_leaves_the_others_done(engine: Engine) -> None:
    with pytest.raises(BatchError, match=r"1 of 3 failed, first prompt 1: .*context") as raised:
        engine.generate(["Once", "x " * 20000, "upon"], max_tokens=2)
    assert [result is None for result in raised.value.results] == [False, True, False]
    assert isinstance(raised.value.errors[1], InvalidRequestError)


def test_one_prompt_or_chat_in_place_of_several_is_refused(engine: Engine) -> None:
    for one in ("Once", [1, 2, 3]):
        with pytest.raises(InvalidRequestError, match=r"prompts: got one of them.*\[prompt\]"):
            engine.generate(one)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match=r"write \[chat\]"):
        engine.chat([{"role": "user", "content": "Hello"}])  # type: ignore[list-item]


def test_a_bar_shows_what_is_done(engine: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    engine.generate(["Once", "upon"], max_tokens=1, progress=True)
    assert "2/2" in capfd.readouterr().err
    engine.generate(["Once", "upon"], max_tokens=1)
    assert "2/2" not in capfd.readouterr().err


def test_programs_run_on_it(engine: Engine) -> None:
    @function
    def sums(s: State, a: int, b: int) -> int:
        s += user(f"What is {a} plus {b}?") + assistant(f"{a} + {b} = " + gen("sum", dtype=int))
        return int(s["sum"])

    assert [sums.run(7, b, backend=engine.backend, temperature=0.0).value for b in (5, 8)] == [12, 15]


def test_who_does_not_bring_the_key_is_turned_away(engine: Engine) -> None:
    with Client(engine.url, api_key="guessed") as client, pytest.raises(UnauthorizedError):
        client.complete("Once")


def is_busy(engine: Engine) -> bool | None:
    """Whether the engine's scheduler has given requests to its executor; None where it does not say."""
    with httpx.Client(trust_env=False) as http:
        metrics, name = Metrics(http.get(f"{engine.url}/metrics").text), "bough_scheduler_running"
    # A scrape lacks the series of a service that was too busy to answer it.
    return metrics.total(name) > 0 if name in metrics.names else None


async def test_a_call_that_is_cancelled_ends_in_the_services_too(engine: Engine) -> None:
    call = asyncio.create_task(engine.agenerate(["Once upon"] * 4, max_tokens=3000, ignore_eos=True))
    await asyncio.to_thread(wait_until, lambda: is_busy(engine) is True, "requests run")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.to_thread(wait_until, lambda: is_busy(engine) is False, "none runs")


def test_settings_that_cannot_be_used_are_refused_before_anything_starts(tmp_path: Path) -> None:
    before = services()
    wrong: dict[str, tuple[Any, str]] = {
        "max_row": (4, "max_row is no setting; did you mean max_rows"),
        "max_rows": (0, "max_rows = 0: .*Requests running at once"),
        "port": (8000, "port: an engine chooses it itself"),
    }
    for name, (value, message) in wrong.items():
        with pytest.raises(ConfigError, match=message):
            Engine(**{name: value})
    with pytest.raises(ModelError, match=r"lacks config\.json"):
        Engine(tmp_path)
    assert services() == before


def test_a_service_that_does_not_start_is_named_with_what_to_do() -> None:
    before = services()
    advice = (
        r"(?s)executor does not start: .*wrote last:.*Lower kv_pages.*`bough serve --kv-pages 4000000000` in a term"
    )
    with pytest.raises(EngineStartError, match=advice), Engine(kv_pages=4_000_000_000):
        pass
    assert services() == before


def test_one_that_is_closed_while_it_starts_leaves_nothing() -> None:
    before = services()
    engine = Engine(**SMALL)
    wait_until(lambda: len(services() - before) == len(SERVICES), "all services are processes")
    engine.close()
    engine.close()
    with pytest.raises(EngineClosedError, match="make another one"):
        engine.generate(["Once"])
    assert services() == before


def test_one_that_nobody_closes_ends_with_its_program() -> None:
    program = f"""
import psutil
from bough.engine import Engine
engine = Engine(**{SMALL})
assert engine.generate(["Once"], max_tokens=1)
print(*(child.pid for child in psutil.Process().children()))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=environment()
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == len(SERVICES) and not any(psutil.pid_exists(pid) for pid in pids)


def test_calls_under_way_end_when_it_is_closed(engine: Engine) -> None:
    # The last test, since it closes what they share.
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(engine.generate, ["Once upon"], max_tokens=3000, ignore_eos=True)
        wait_until(lambda: is_busy(engine) is True, "a request runs")
        engine.close()
        with pytest.raises(EngineClosedError):
            call.result()
