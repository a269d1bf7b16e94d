"""`bough lang draw`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bough.cli.main import main

PROGRAM = """
from bough.lang import State, function, gen
from ending import END

@function
def greet(s: State, name: str) -> None:
    s += "Dear " + name + gen("more") + END
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file with a program, which imports one beside it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    (tmp_path / "ending.py").write_text("END = '!'")
    (tmp_path / "letters.py").write_text(PROGRAM)
    return f"{tmp_path / 'letters.py'}:greet"


def test_a_program_is_drawn_with_arguments_made_up_or_given(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lang", "draw", program]) == 0
    assert capsys.readouterr().out == 'text "Dear ⟨name⟩"\ngen more\ntext "!"\n'
    assert main(["lang", "draw", program, "--arg", "name=Ann=", "--format", "dot"]) == 0
    assert 'label="text \\"Dear Ann=\\""' in capsys.readouterr().out
    assert main(["lang", "draw", program, "--format=mermaid"]) == 0
    assert capsys.readouterr().out.startswith("flowchart TD\n")


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        ("x", "'greetx' is no program of letters.py; there are: greet"),
        (":greet", "names no file; accepted is FILE.py:FUNCTION"),
    ],
)
def test_what_is_no_program_is_answered_with_those_there_are(
    program: str, capsys: pytest.CaptureFixture[str], ending: str, message: str
) -> None:
    assert main(["lang", "draw", program + ending]) == 2
    assert message in capsys.readouterr().err


def test_wrong_arguments_are_a_usage_error(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lang", "draw", program, "--arg", "name"]) == 2
    assert "--arg: got 'name', accepted is NAME=VALUE" in capsys.readouterr().err
    assert main(["lang", "draw", program, "--arg", "nam=Ann"]) == 2
    assert "takes no nam; did you mean name?" in capsys.readouterr().err
    assert main(["lang", "draw", "letters.py"]) == 2
