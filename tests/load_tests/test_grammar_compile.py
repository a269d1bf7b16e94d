"""The table of compile times has a line for each way, and every text of it is one of its schema."""

from __future__ import annotations

import json

import jsonschema
import pytest

from bough.load import grammar_compile


def test_the_table_has_a_line_for_each_way(capsys: pytest.CaptureFixture[str]) -> None:
    grammar_compile.main(["--tokens", "600", "--chars", "50000"])
    head, _, names, _, *lines = capsys.readouterr().out.splitlines()
    assert head == "600 tokens"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert {tuple(line[:3]) for line in cells} == {
        (converter, masks, threads)
        for converter in ("xgrammar", "ours")
        for masks in ("ahead", "when asked for")
        for threads in ("1", "2")
    }
    assert {len(line) for line in cells} == {len(names.strip("|").split("|"))}
    assert all(float(cell) >= 0 for line in cells for cell in line[3:])


def test_the_text_of_a_schema_holds_for_it() -> None:
    schema, text = grammar_compile.ordinary_schema(7)
    jsonschema.validate(json.loads(text), json.loads(schema))
