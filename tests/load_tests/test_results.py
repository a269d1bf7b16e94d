from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bough.load import machine, results
from bough.load.distribution import Distribution
from bough.load.generator import Tally

ZERO = Distribution().summary_ms()
RUN = {"output_tokens_per_s": 900.0, "ttft_ms": ZERO, "itl_ms": ZERO}


def test_a_result_names_machine_commit_and_command(tmp_path: Path) -> None:
    result = results.document("chat", {"rate": 2}, {"completed": 1})
    results.write(tmp_path / "new" / "r.json", result)
    read = json.loads((tmp_path / "new" / "r.json").read_text())
    assert read["format"] == results.FORMAT
    assert read["machine"]["cores"] >= 1 and read["machine"]["memory_gib"] >= 0
    assert read["commit"] and read["command"].startswith("bough")
    assert (read["kind"], read["parameters"], read["measured"]) == ("chat", {"rate": 2}, {"completed": 1})


def test_a_table_is_aligned() -> None:
    lines = results.markdown(["a", "long"], [["bb", "1"], ["c", "22,222"]]).splitlines()
    assert lines == ["| a  |   long |", "|----|-------:|", "| bb |      1 |", "| c  | 22,222 |"]


def test_the_table_of_a_load_has_a_line_a_label_and_the_errors() -> None:
    tally = Tally()
    tally.errors["http 429"] += 3
    measured = tally.summary(2.0) | {"by_label": {"short": Tally().summary(2.0)}}
    table = results.load_table(measured)
    assert "| short " in table and "| all " in table
    assert "error: http 429: 3" in table


def test_the_report_shows_the_ratio_to_the_better_peer_and_the_share_of_the_executor() -> None:
    costs = {"gateway": 20.0, "launcher": 0.0}
    measured = {
        "offline": {
            "versions": {"vllm": "1.0", "transformers": "5"},
            "tokens_per_s": {"1": {"bough": 300, "vllm": 200}, "64": {"bough": 900, "vllm": 300, "transformers": 450}},
        },
        "ready_s": 4.04,
        "vllm_ready_s": 67.0,
        "token_way_ms": ZERO,
        "idle": {"percent_of_a_core": {"gateway": 0.4, "launcher": 0.0}, "all_six_percent": 0.4},
        "executor_direct_tokens_per_s": 1000,
        "rest": {f"bough {how}": {**RUN, "cpu_us_per_token": costs} for how in ("streamed", "whole")},
        "resident_mb": {"gateway": 70, "launcher": 40},
    }
    report = results.report(results.document("all", {"repeats": 3}, measured))
    rows = [line.split("|")[1:-1] for line in report.splitlines() if line.startswith("| ")]
    cells = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
    assert cells["1 row"] == ["300", "200", "", "1.50"]
    assert cells["64 rows"] == ["900", "300", "450", "2.00"]
    assert cells["REST, Bough, streamed"][-1] == "0.90"
    assert cells["gateway"] == ["20.0", "20.0", "0.4", "70"]
    assert "ready in 4.0 s" in report and "67 s" in report


def test_a_process_and_its_children_are_found() -> None:
    program = "print(flush=True); input()"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"\n"
        assert process.pid in machine.children(os.getpid())
        assert machine.command_line(process.pid)[0] == sys.executable
        assert machine.usage(os.getpid()).resident_mb > machine.usage(process.pid).resident_mb > 0
        process.communicate(b"\n")
    assert machine.usage(process.pid).resident_mb == 0
    assert machine.command_line(process.pid) == []


def test_the_commit_can_be_told_where_there_is_no_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(machine.COMMIT_VARIABLE, "abc1234")
    assert machine.commit() == "abc1234"
