"""The one format of results: a JSON document with what was run where, and tables for people."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bough.load import machine

FORMAT = "bough-load/1"

_TITLES = {"bough": "Bough", "vllm": "vLLM"}


def document(kind: str, parameters: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    """A result with everything needed to read it later.

    Args:
        kind: What was measured: the scenario's name, `executor`, `generator` or `all`.
        parameters: What it depends on, beside the machine and the code.
        measured: The numbers; durations carry their unit in their name.
    """
    return {
        "format": FORMAT,
        "kind": kind,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": machine.commit(),
        "command": "bough " + " ".join(sys.argv[1:]),
        "machine": machine.describe(),
        "parameters": dict(parameters),
        "measured": dict(measured),
    }


def write(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def read(path: Path) -> dict[str, Any]:
    """A result that `write` wrote.

    Raises:
        ValueError: the file is something else.
    """
    result: Any = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(result, dict) or result.get("format") != FORMAT:
        raise ValueError("no result of a measurement")
    return result


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns; the first one is text, the others are numbers."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join(("-" * (width + 1) + ":") if i else "-" * (width + 2) for i, width in enumerate(widths)) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])


def load_table(measured: Mapping[str, Any]) -> str:
    """The table of a load: one line for everything, and one for each label."""
    header = ["", "requests", "errors", "tok/s", "TTFT p50", "p90", "p99", "ITL p50", "p90", "p99", "E2E p50", "p99"]
    lines = {"all": measured, **measured.get("by_label", {})}
    rows = []
    for name, part in lines.items():
        cells = [name, str(part["completed"]), str(sum(part["errors"].values())), f"{part['output_tokens_per_s']:,.0f}"]
        cells += [_ms(part["ttft_ms"][key]) for key in ("p50", "p90", "p99")]
        cells += [_ms(part["itl_ms"][key]) for key in ("p50", "p90", "p99")]
        cells += [_ms(part["e2e_ms"][key]) for key in ("p50", "p99")]
        rows.append(cells)
    notes = [f"error: {kind}: {count}" for kind, count in measured["errors"].items()]
    return "\n".join([markdown(header, rows), "durations in milliseconds", *notes])


def _ms(value: float) -> str:
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def report(result: Mapping[str, Any]) -> str:
    """The tables of a whole comparison, as the README shows them."""
    measured, system = result["measured"], result["machine"]
    repeats = result["parameters"]["repeats"]
    versions = {name: f"{_TITLES.get(name, name)} {number}" for name, number in measured["offline"]["versions"].items()}
    head = (
        f"{system['cores']} cores of {system['cpu']}, {system['memory_gib']} GiB, Python {system['python']}; commit "
        f"{result['commit']}, {result['time'][:10]}, `make bench`; median of {repeats}, in turns."
    )
    return "\n\n".join(
        [head, _offline_table(measured["offline"], versions), _server_table(measured), _cost_table(measured)]
    )


def _offline_table(offline: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    rows = []
    for name, rates in offline["tokens_per_s"].items():
        title = "prefill, 16 of 2,048" if name == "prefill" else f"{name} row{'s' if name != '1' else ''}"
        others = [rates[engine] for engine in versions if engine in rates]
        ratio = f"{rates['bough'] / max(others):.2f}" if others else ""
        cells = [f"{rates[engine]:,}" if engine in rates else "" for engine in versions]
        rows.append([title, f"{rates['bough']:,}", *cells, ratio])
    return markdown(["tokens/s, engine alone, 128 in, 128 out", "Bough", *versions.values(), "ratio"], rows)


def _server_table(measured: Mapping[str, Any]) -> str:
    direct = measured["executor_direct_tokens_per_s"]
    rows = [["executor driven directly", f"{direct:,}", "", "", "", "1.00"]]
    for name, run in measured["rest"].items():
        rate = run["output_tokens_per_s"]
        latencies = [_ms(run["ttft_ms"]["p50"]), _ms(run["itl_ms"]["p50"]), _ms(run["itl_ms"]["p99"])]
        if "whole" in name:
            latencies = ["", "", ""]
        engine, how = name.split()
        rows.append([f"REST, {_TITLES.get(engine, engine)}, {how}", f"{rate:,.0f}", *latencies, f"{rate / direct:.2f}"])
    return markdown(["64 at once, 256 requests, 128 in, 128 out", "tok/s", "TTFT p50", "ITL p50", "p99", "share"], rows)


def _cost_table(measured: Mapping[str, Any]) -> str:
    streamed, whole = (measured["rest"][f"bough {how}"]["cpu_us_per_token"] for how in ("streamed", "whole"))
    idle, resident = measured["idle"]["percent_of_a_core"], measured["resident_mb"]
    rows = [
        [name, f"{streamed[name]:.1f}", f"{whole.get(name, 0):.1f}", *(_cell(part, name) for part in (idle, resident))]
        for name in streamed
    ]
    way = measured["token_way_ms"]
    notes = [
        f"`bough serve` ready in {measured['ready_s']:.1f} s"
        + (f", vLLM's server in {measured['vllm_ready_s']:.0f} s" if "vllm_ready_s" in measured else ""),
        f"one token's way from the executor's step to the client: p50 {way['p50']:.2f} ms, p99 {way['p99']:.2f} ms",
        f"idle, all six: {measured['idle']['all_six_percent']:.2f} % of a core",
    ]
    table = markdown(["process", "CPU µs/token, streamed", "whole", "idle, % of a core", "resident, MB"], rows)
    return table + "\n\n" + "\n".join(f"- {note}" for note in notes)


def _cell(values: Mapping[str, Any], name: str) -> str:
    return str(values[name]) if name in values else ""
