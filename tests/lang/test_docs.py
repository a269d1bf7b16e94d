"""The tutorial's snippets run, one after the other as a reader would, and its tables are complete."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from bough.lang import ChoicesMethod, Fake, set_default_backend
from bough.lang.backends.flavours import FLAVOURS
from bough.lang.sampling import option_names
from tests.helpers.repository import ROOT

PAGE = (ROOT / "docs" / "lang.md").read_text()
SNIPPETS = re.findall(r"(<!-- needs a server -->\n)?```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(autouse=True)
def default_backend() -> Iterator[None]:
    set_default_backend(Fake())
    yield
    set_default_backend(None)


def test_the_snippets_of_the_tutorial_run(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "tutorial"}
    for number, (needs_server, source) in enumerate(SNIPPETS):
        if not needs_server:
            exec(compile(source, f"snippet {number} of lang.md", "exec"), names)
    assert len(SNIPPETS) >= 9 and "Explain gravity to a child" in capsys.readouterr().out


def test_the_program_in_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    sources = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    (program,) = [source for source in sources if "bough.lang" in source]
    exec(compile(program, "README.md", "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out.strip()


def test_the_tutorial_has_every_option_method_and_flavour() -> None:
    wanted = [*option_names(), *ChoicesMethod, *FLAVOURS]
    assert [name for name in wanted if f"`{name}`" not in PAGE] == []
