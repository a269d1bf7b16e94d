from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bough.cli.main import main
from bough.load import gpu_bench, gpu_peers, machine, results
from bough.load.gpu_bench import GpuBench, GpuOptions

WORKER = """
import json, os, sys
assert os.environ["PYTHONPATH"].endswith("/vllm/site"), os.environ["PYTHONPATH"]
assert json.loads(sys.argv[2])["load_format"] == "dummy"
print(json.dumps({"ready_s": 1.5, "version": "9"}), flush=True)
for line in sys.stdin:
    case = json.loads(line)
    tokens = sum(case["output_tokens"])
    print(json.dumps({"seconds": tokens / 1000, "output_tokens": tokens - MISSING}), flush=True)
"""


@pytest.fixture
def options(tmp_path: Path) -> GpuOptions:
    (tmp_path / "peers" / "vllm" / "site").mkdir(parents=True)
    return GpuOptions(
        models=["qwen3-0.6b"],
        engines=["vllm", "sglang"],
        parts=["offline"],
        small=True,
        repeats=1,
        log_dir=tmp_path / "logs",
        peers_dir=tmp_path / "peers",
    )


def use_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, missing: int) -> None:
    program = tmp_path / "worker.py"
    program.write_text(WORKER.replace("MISSING", str(missing)))
    peer = replace(gpu_peers.VLLM, program=str(program))
    monkeypatch.setitem(gpu_peers.PEERS, "vllm", peer)


async def test_a_peer_runs_all_workloads_from_its_own_folder_and_an_absent_one_is_left_out(
    options: GpuOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_worker(tmp_path, monkeypatch, missing=0)
    said: list[str] = []
    saved: list[dict[str, Any]] = []
    found = await GpuBench(options, said.append, saved.append).run()
    model = found["models"]["qwen3-0.6b"]
    assert list(model["engines"]) == ["vllm"] and "sglang is not there: left out" in said
    values = model["engines"]["vllm"]["values"]
    assert values["ready"] == 1.5 and values["decode 8"] == pytest.approx(8.0)  # a millisecond a token and row
    assert values["mixed"] == pytest.approx(1000)
    assert set(values) - {"ready"} == set(model["floors"])
    assert saved[-1] == found


async def test_a_peer_that_fails_is_told_and_the_others_go_on(
    options: GpuOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_worker(tmp_path, monkeypatch, missing=1)
    found = await GpuBench(options, lambda _: None, lambda _: None).run()
    assert "produced" in found["errors"]["qwen3-0.6b, vllm, offline"]


def test_a_directory_without_weights_is_served_with_made_up_ones(tmp_path: Path) -> None:
    assert gpu_bench.format_flags(tmp_path) == ["--load-format", "dummy"]
    (tmp_path / "model.safetensors").touch()
    assert gpu_bench.format_flags(tmp_path) == []


async def test_what_was_measured_before_stays_beside_what_is_added(
    options: GpuOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_worker(tmp_path, monkeypatch, missing=0)
    known = {"models": {"qwen3-0.6b": {"floors": {}, "engines": {"bough": {"values": {"mixed": 7.0}}}}}}
    found = await GpuBench(options, lambda _: None, lambda _: None, known).run()
    engines = found["models"]["qwen3-0.6b"]["engines"]
    assert engines["bough"]["values"] == {"mixed": 7.0} and engines["vllm"]["values"]["mixed"] == pytest.approx(1000)


def test_numbers_of_another_commit_are_not_added_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "gpu.json"
    monkeypatch.setenv(machine.COMMIT_VARIABLE, "abc1234")
    results.write(file, results.document("gpu", {}, {"models": {}}))
    monkeypatch.setenv(machine.COMMIT_VARIABLE, "def5678")
    assert main(["bench", "gpu", "--add", "--json", str(file), "--log-dir", str(tmp_path)]) != 0
    assert "measured at abc1234, and this is def5678" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "reason"),
    [(None, "--add needs --json FILE"), ("[]", "no result of a measurement"), ("{", "Expecting property name")],
)
def test_numbers_are_only_added_to_a_file_of_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, reason: str
) -> None:
    file = tmp_path / "gpu.json"
    file.write_text(text or "")
    arguments = ["bench", "gpu", "--add", "--log-dir", str(tmp_path)]
    assert main(arguments if text is None else [*arguments, "--json", str(file)]) != 0
    assert reason in capsys.readouterr().err
