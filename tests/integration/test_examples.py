"""The examples do on the demo model what they say."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from bough.common.config import URL_VARIABLE
from tests.helpers.repository import ROOT
from tests.integration.server import Server, environment

FOLDER = ROOT / "examples"
HELPERS = {"counts"}

PRINTED = {
    "chat": (
        r"> Where do I live\?\nYou live in Bergen\.   \[\d+ of \d+ prompt tokens were in the cache\]",
        r"Your name is Nadia\.",
    ),
    "json_extraction": (
        r"Person\(name='Tim Davis', age=31, city='Oslo', job='tailor'\)\n"
        r"Person\(name='Bella Wong', age=23, city='Madrid', job='farmer'\)\n"
        r"Person\(name='Mila', age=44, city='Rome', job='nurse'\)",
    ),
    "judge": (
        r"Is Paris the capital of Italy\? No, .*Rome \(ahead by \d+\.\d\)\nIs 58 bigger than 47\? Yes, .*\n"
        r"Is snow black\? No, .*\nDoes a horse say neigh\? Yes, ",
    ),
    "rag": (r"read 5 of 6 documents", r"How old am I\? .*31.*\nWhat is the door code\? .*3042"),
    "react_agent": (
        r'  get_weather\(Reykjavik\) -> \{"temperature": 4, "condition": "windy"\}\nIt is 4 degrees and windy',
        r"  get_population\(Athens\) -> .*\nThe population of Athens is 643000",
    ),
    "self_consistency": (r"votes: \d+ x 559, (\d+ x \d+, )*\d+ x \d+\n947 - 388 = 559",),
    "skeleton_of_thought": (r"skeleton: France, (\w+, )+\w+\nThe capital of France is Paris\.\n",),
    "tree_of_thoughts": (
        r"\+ 247: proposed \[\d+, \d+, \d+, \d+\], kept \[359\]",
        r"112 \+ 247 \+ 85 \+ 361 = 805",
    ),
}


def run(name: str, server: Server) -> str:
    """What an example prints."""
    # As a reader runs it: with its folder on the path of modules.
    variables = environment(**{URL_VARIABLE: server.url, "BOUGH_GRPC_PORT": str(server.grpc_port)})
    del variables["PYTHONSAFEPATH"]
    command = [sys.executable, str(FOLDER / f"{name}.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_prints_what_it_shows_and_what_it_cost(name: str, server: Server) -> None:
    printed = run(name, server)
    for wanted in PRINTED[name]:
        assert re.search(wanted, printed), printed
    cost = re.search(r"^prompt tokens: (\d+) computed, (\d+) from the cache$", printed, flags=re.MULTILINE)
    assert cost is not None, printed
    # Nothing that all calls of a program share is computed twice.
    assert int(cost[2]) > 0


def test_every_example_is_run_and_is_in_the_list() -> None:
    programs = {path.stem for path in FOLDER.glob("*.py")} - HELPERS
    assert programs == set(PRINTED)
    listed = re.findall(r"^\| \[(\w+)\.py\]", (FOLDER / "README.md").read_text(), flags=re.MULTILINE)
    assert set(listed) == programs


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_says_in_three_lines_what_it_is(name: str) -> None:
    text = (FOLDER / f"{name}.py").read_text()
    docstring = text.split('"""')[1].strip().splitlines()
    assert len(docstring) == 3 and docstring[1] == "", docstring
