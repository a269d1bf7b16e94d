from __future__ import annotations

import asyncio
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bough.load import machine
from bough.load.bough_server import ready_server
from bough.load.children import PeerFailed, server, worker

ECHO = """
import json, sys
print(json.dumps({"ready_s": 1}), flush=True)
for line in sys.stdin:
    print(json.dumps({"got": json.loads(line)}), flush=True)
"""


async def test_a_worker_answers_case_by_case_and_ends_with_its_block(tmp_path: Path) -> None:
    async with worker([sys.executable, "-c", ECHO], tmp_path / "log") as echo:
        await echo.wait_ready(10)
        assert echo.ready == {"ready_s": 1}
        assert await echo.ask({"a": [1] * 100_000}) == {"got": {"a": [1] * 100_000}}
        process = echo._process
    assert process.returncode is not None


async def test_a_worker_that_dies_says_where_its_log_is(tmp_path: Path) -> None:
    async with worker([sys.executable, "-c", "raise SystemExit('no engine')"], tmp_path / "log") as broken:
        with pytest.raises(PeerFailed, match="log"):
            await broken.wait_ready(10)
    assert "no engine" in (tmp_path / "log").read_text()


async def test_processes_below_a_server_end_with_it(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    program = f"import subprocess; p = subprocess.Popen(['sleep', '1000']); open({str(ready)!r}, 'w').write(str(p.pid))"
    async with server([sys.executable, "-c", program + "; p.wait()"], tmp_path / "log"):
        below = os.pidfd_open(int(await asyncio.to_thread(ready.read_text)))
        assert select.select([below], [], [], 0)[0] == []
    # Readable once the process has ended.
    assert select.select([below], [], [], 30)[0] == [below]
    os.close(below)


async def test_a_server_is_not_started_where_another_one_would_be_measured(tmp_path: Path) -> None:
    listener = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    try:
        with pytest.raises(PeerFailed, match=f"another server listens at port {port}"):
            async with ready_server([sys.executable, "-c", ""], "/ready", port, tmp_path / "log"):
                pass
    finally:
        listener.close()
    assert not (tmp_path / "log").exists()


def test_a_benchmark_that_is_terminated_takes_its_executor_with_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bough.cli.main", "bench", "executor", "--repeats", "1"]
    bench = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (below := machine.children(bench.pid)):
            assert bench.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        executor = os.pidfd_open(below[0])
        bench.terminate()
        assert bench.wait(60) == 1
        assert select.select([executor], [], [], 0)[0] == [executor]
        os.close(executor)
    finally:
        bench.kill()
        bench.wait()
