"""`bough service`: a real service as a real process."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from bough.cli.health import probe

WAIT_S = 60.0


async def start(name: str, run_dir: Path, *flags: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "bough.cli.main", "service", name, "--run-dir", str(run_dir), *flags),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={name: value for name, value in os.environ.items() if not name.startswith("BOUGH_")},
    )


async def test_a_service_serves_until_it_is_asked_to_end(tmp_path: Path) -> None:
    process = await start("tokenizer", tmp_path)
    address = f"unix:{tmp_path / 'tokenizer.sock'}"
    assert await asyncio.to_thread(probe, address, "", timeout_s=WAIT_S) == "SERVING"
    process.send_signal(signal.SIGTERM)
    output, _ = await asyncio.wait_for(process.communicate(), WAIT_S)
    assert process.returncode == 0, output.decode()


async def test_a_model_that_cannot_be_used_is_status_2_so_that_nobody_tries_again(tmp_path: Path) -> None:
    process = await start("tokenizer", tmp_path, "--model", str(tmp_path))
    output, _ = await asyncio.wait_for(process.communicate(), WAIT_S)
    assert process.returncode == 2
    assert "lacks config.json" in output.decode()


async def test_a_setting_that_cannot_be_used_is_status_2(tmp_path: Path) -> None:
    process = await start("tokenizer", tmp_path, "--max-queue", "none")
    output, _ = await asyncio.wait_for(process.communicate(), WAIT_S)
    assert process.returncode == 2
    assert "max_queue = 'none' (from --max-queue)" in output.decode()
