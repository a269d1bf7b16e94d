"""What the documentation tells a reader to type exists."""

from __future__ import annotations

import contextlib
import io
import re
from functools import cache
from pathlib import Path

import pytest

from bough.cli.main import COMMANDS, main
from bough.common.config import Settings, variable_of
from tests.helpers.repository import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")])
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


def commands_in(page: Path, program: str) -> list[list[str]]:
    """Words after `program` in each command line of a page: in code blocks and in backticks."""
    text = page.read_text()
    blocks = re.findall(r"^```(?:sh|bash|console)?\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", prose)
    return [
        line.split("#")[0].split()[1:]
        for line in (re.sub(r"^\$ |^\.venv/bin/", "", line.strip()) for line in lines)
        if line.split()[:1] == [program] and len(line.split()) > 1
    ]


@cache
def options_of(command: str) -> set[str]:
    """Flags in the help of a `bough` command."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        main([command, "--help"])
    return set(re.findall(r"--[a-z][a-z-]*", output.getvalue()))


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_make_target_named_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {word for words in commands_in(page, "make") for word in words[:1] if re.fullmatch(r"[a-z-]+", word)}
    assert named <= targets


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_command_and_flag_named_exists(page: Path) -> None:
    wrong = []
    for words in commands_in(page, "bough"):
        command = words[0].rstrip("`.,")
        if command.startswith(("-", "COMMAND")):
            continue
        if command not in COMMANDS:
            wrong.append(command)
            continue
        flags = {match for word in words[1:] if (match := word.partition("=")[0]).startswith("--")}
        wrong += sorted(flags - options_of(command))
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_environment_variable_named_is_a_setting(page: Path) -> None:
    known = {variable_of(name) for name in Settings.model_fields} | {
        "BOUGH_CONFIG",
        "BOUGH_NAME",
        "BOUGH_URL",
        "BOUGH_X",
    }
    assert set(re.findall(r"\bBOUGH_[A-Z_]+\b", page.read_text())) <= known


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    dead = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert dead == []


def test_the_operations_page_lists_every_setting() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    assert [name for name in Settings.model_fields if f"`{name}`" not in text] == []
