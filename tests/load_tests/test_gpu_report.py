from __future__ import annotations

from typing import Any

from bough.load import results
from bough.load.gpu_report import report


def table_of(engines: dict[str, dict[str, float]], floors: dict[str, float]) -> dict[str, list[str]]:
    """Title of a row -> its cells."""
    found: dict[str, Any] = {name: {"values": values} for name, values in engines.items()}
    measured = {"models": {"qwen3-8b": {"floors": floors, "engines": found}}}
    text = report(results.document("gpu", {"repeats": 3}, measured))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in rows}


def test_a_row_has_floor_peers_ours_ratios_and_whether_the_goal_is_met() -> None:
    engines = {"bough": {"decode 1": 4.0}, "vllm": {"decode 1": 5.0}, "sglang": {"decode 1": 8.0}}
    rows = table_of(engines, {"decode 1": 3.2})
    assert rows["decode step, 1 row"] == ["ms", "3.20", "5.00", "8.00", "4.00", "1.25", "0.80", "4.20", "yes"]


def test_a_goal_can_be_a_multiple_of_the_best_peer_of_the_run() -> None:
    engines = {"bough": {"shared prefix": 120.0}, "vllm": {"shared prefix": 100.0}, "sglang": {"shared prefix": 90.0}}
    assert table_of(engines, {})["shared prefix"][-3:] == ["1.20", "125", "no"]


def test_what_an_engine_did_not_measure_is_left_empty() -> None:
    rows = table_of({"bough": {"mixed": 13_000.0}, "vllm": {"prefill": 40_000.0}}, {})
    assert rows["256 requests, output"] == ["tok/s", "", "", "13,000", "", "", "12,500", "yes"]
    assert rows["prefill, 32 of 4,096"] == ["tok/s", "", "40,000", "", "", "", "40,000", ""]


def test_what_failed_is_told_below_the_tables() -> None:
    measured = {"models": {}, "errors": {"qwen3-8b, vllm, http": "no answer"}}
    assert "failed: qwen3-8b, vllm, http: no answer" in report(results.document("gpu", {}, measured))
