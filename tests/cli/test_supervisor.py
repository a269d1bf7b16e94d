"""The supervisor, with small real processes as children."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from bough.cli.supervisor import ChildSpec, GiveUpError, RestartPolicy, Supervisor

FAST = RestartPolicy(initial_backoff_s=0.01, max_backoff_s=0.03)
WAIT_S = 20.0

OBEDIENT = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b"drained\\n"), os._exit(0)))
print("pid", os.getpid(), flush=True)
while True: signal.pause()
"""
STUBBORN = OBEDIENT.replace("os._exit(0)", "None")


class Recorder:
    """Watcher that keeps what it was told, and lets a test wait for it."""

    def __init__(self) -> None:
        self.told: list[tuple[str, ...]] = []
        self._news = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    def started(self, name: str) -> None:
        self._tell("started", name)

    def line(self, name: str, text: str) -> None:
        self._tell("line", name, text)

    def died(self, name: str, reason: str, retry_in_s: float) -> None:
        self._tell("died", name, reason, str(retry_in_s))

    def stopped(self, name: str) -> None:
        self._tell("stopped", name)

    def count(self, *event: str) -> int:
        return sum(told[: len(event)] == event for told in self.told)

    async def until(self, count: int, *event: str) -> None:
        async with asyncio.timeout(WAIT_S), self._news:
            await self._news.wait_for(lambda: self.count(*event) >= count)

    async def pid_of(self, name: str, start: int = 1) -> int:
        """Process id of the `start`-th process of a child."""
        async with asyncio.timeout(WAIT_S), self._news:
            await self._news.wait_for(lambda: len(self._pids(name)) >= start)
        return self._pids(name)[start - 1]

    def _pids(self, name: str) -> list[int]:
        return [int(t[2].split()[1]) for t in self.told if t[:2] == ("line", name) and t[2].startswith("pid")]

    def _tell(self, *event: str) -> None:
        self.told.append(event)
        task = asyncio.ensure_future(self._notify())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _notify(self) -> None:
        async with self._news:
            self._news.notify_all()


def spec(name: str, program: str, socket_path: Path | None = None) -> ChildSpec:
    return ChildSpec(
        name=name,
        command=[sys.executable, "-S", "-c", program],
        environment={"PATH": os.environ["PATH"]},
        socket=socket_path,
    )


@contextlib.asynccontextmanager
async def supervised(
    *specs: ChildSpec, policy: RestartPolicy = FAST
) -> AsyncIterator[tuple[Supervisor, Recorder, asyncio.Task[None]]]:
    recorder = Recorder()
    supervisor = Supervisor(specs, recorder, policy)
    task = asyncio.create_task(supervisor.run())
    try:
        yield supervisor, recorder, task
    finally:
        if not task.done():
            await supervisor.kill()
        await asyncio.gather(task, return_exceptions=True)


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_child_that_dies_is_started_again_with_growing_pauses() -> None:
    async with supervised(spec("a", "raise SystemExit('broken')")) as (supervisor, recorder, _):
        supervisor.settle()
        await recorder.until(4, "died", "a")
    deaths = [told for told in recorder.told if told[0] == "died"]
    assert deaths[0][2] == "exit status 1: broken"
    assert [float(told[3]) for told in deaths[:4]] == [0.01, 0.02, 0.03, 0.03]


async def test_the_pause_is_short_again_after_a_child_ran_a_while() -> None:
    policy = RestartPolicy(initial_backoff_s=0.01, max_backoff_s=0.03, stable_after_s=0.0)
    async with supervised(spec("a", "raise SystemExit(1)"), policy=policy) as (supervisor, recorder, _):
        supervisor.settle()
        await recorder.until(3, "died", "a")
    assert {told[3] for told in recorder.told if told[0] == "died"} == {"0.01"}


async def test_a_killed_child_is_named_with_its_signal_and_comes_back() -> None:
    async with supervised(spec("a", OBEDIENT), spec("b", OBEDIENT)) as (supervisor, recorder, _):
        supervisor.settle()
        os.kill(await recorder.pid_of("a"), signal.SIGKILL)
        assert await recorder.pid_of("a", 2)
        await recorder.pid_of("b")
        assert supervisor.deaths.get_nowait() == "a"
    assert recorder.count("died", "a", "killed by SIGKILL") == 1
    assert recorder.count("started", "b") == 1


async def test_a_permanent_failure_at_start_ends_everything() -> None:
    async with supervised(spec("a", "raise SystemExit(2)"), spec("b", OBEDIENT)) as (_, recorder, task):
        with pytest.raises(GiveUpError, match="a does not start: exit status 2"):
            await asyncio.wait_for(task, WAIT_S)
        assert not any(exists(pid) for pid in recorder._pids("b"))


async def test_a_child_that_never_comes_up_is_given_up_after_some_attempts() -> None:
    async with supervised(spec("a", "raise SystemExit(1)")) as (_, recorder, task):
        with pytest.raises(GiveUpError, match="exit status 1"):
            await asyncio.wait_for(task, WAIT_S)
    assert recorder.count("started", "a") == FAST.start_attempts


async def test_a_command_that_does_not_exist_is_given_up() -> None:
    async with supervised(ChildSpec(name="a", command=["/nowhere/at/all"])) as (_, _, task):
        with pytest.raises(GiveUpError, match="/nowhere/at/all"):
            await asyncio.wait_for(task, WAIT_S)


async def test_children_are_drained_in_the_given_order() -> None:
    names = ["c", "a", "b"]
    async with supervised(*(spec(name, OBEDIENT) for name in sorted(names))) as (supervisor, recorder, task):
        pids = [await recorder.pid_of(name) for name in names]
        await supervisor.stop([[name] for name in names], WAIT_S)
        await task
    assert [told[1] for told in recorder.told if told[0] == "stopped"] == names
    assert [told[1] for told in recorder.told if told[2:] == ("drained",)] == names
    assert not any(exists(pid) for pid in pids)


async def test_a_group_is_drained_at_once() -> None:
    async with supervised(spec("a", STUBBORN), spec("b", OBEDIENT), spec("c", OBEDIENT)) as (
        supervisor,
        recorder,
        task,
    ):
        for name in "abc":
            await recorder.pid_of(name)
        stopping = asyncio.create_task(supervisor.stop([["a", "b"], ["c"]], WAIT_S))
        await recorder.until(1, "stopped", "b")
        assert recorder.count("stopped", "c") == 0, "the next group waits for the whole one before it"
        await supervisor.kill()
        await asyncio.gather(stopping, task)


async def test_a_child_that_ignores_the_request_is_killed_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bough.cli.supervisor._KILL_GRACE_S", 0.0)
    async with supervised(spec("a", STUBBORN), spec("b", OBEDIENT)) as (supervisor, recorder, task):
        pids = [await recorder.pid_of(name) for name in "ab"]
        await supervisor.stop([["a"], ["b"]], 0.1)
        await task
    assert not any(exists(pid) for pid in pids)


async def test_what_a_dead_child_left_running_is_killed_with_it() -> None:
    program = OBEDIENT + "\n"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {program!r}]).wait()"
    async with supervised(spec("a", parent)) as (supervisor, recorder, task):
        orphan = await recorder.pid_of("a")
        await supervisor.kill()
        await task
        await until_gone(orphan)


async def until_gone(pid: int) -> None:
    """Return once a process has ended: its descriptor becomes readable."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(descriptor, ended.set)
        try:
            await asyncio.wait_for(ended.wait(), WAIT_S)
        finally:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)


async def test_the_socket_of_a_dead_child_is_gone_before_it_starts_again(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    program = f"import os; print('there' if os.path.lexists({str(path)!r}) else 'gone'); raise SystemExit(1)"
    async with supervised(spec("a", program, path)) as (_, recorder, _):
        await recorder.until(1, "line", "a")
    assert recorder.count("line", "a", "gone") >= 1


async def test_the_socket_of_a_child_is_gone_when_its_death_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    program = f"import pathlib; pathlib.Path({str(path)!r}).touch(); raise SystemExit(1)"
    policy = RestartPolicy(initial_backoff_s=60)
    async with supervised(spec("a", program, path), policy=policy) as (supervisor, _, _):
        supervisor.settle()
        assert await asyncio.wait_for(supervisor.deaths.get(), WAIT_S) == "a"
        assert not path.exists()


async def test_a_child_inherits_the_descriptors_it_is_to_have_and_no_others() -> None:
    with socket.create_server(("127.0.0.1", 0)) as given, socket.create_server(("127.0.0.1", 0)) as kept:
        numbers = (given.fileno(), kept.fileno())
        program = f"import os; print([os.path.exists('/proc/self/fd/%d' % n) for n in {numbers}])"
        child = replace(spec("a", program), inherit=(given.fileno(),))
        async with supervised(child) as (supervisor, recorder, _):
            supervisor.settle()
            await recorder.until(1, "line", "a", "[True, False]")


async def test_a_line_longer_than_the_buffer_does_not_end_the_reading() -> None:
    program = "print('x' * (3 << 20)); print('after', flush=True); import signal; signal.pause()"
    async with supervised(spec("a", program)) as (_, recorder, _):
        await recorder.until(1, "line", "a", "after")


async def test_a_child_dies_with_its_parent() -> None:
    child = "import os; from bough.cli.service import die_with_parent; die_with_parent(os.getppid());" + (
        "print(os.getpid(), flush=True); import signal; signal.pause()"
    )
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-P', '-c', {child!r}]).wait()"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", parent, stdout=asyncio.subprocess.PIPE, env=dict(os.environ)
    )
    assert process.stdout is not None
    pid = int(await asyncio.wait_for(process.stdout.readline(), WAIT_S))
    process.kill()
    await process.wait()
    await until_gone(pid)


def test_a_child_whose_parent_is_gone_already_ends_at_once() -> None:
    from bough.cli.service import die_with_parent

    with pytest.raises(SystemExit):
        die_with_parent(os.getpid())
