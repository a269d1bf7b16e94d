"""The page for people who come from SGLang: our side of it runs, and everything has a counterpart or none by name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from bough.engine import Engine
from bough.lang import Fake, Function, Result, State, set_default_backend
from tests.helpers.repository import ROOT

PAGE = (ROOT / "docs" / "coming-from-sglang.md").read_text()
THEIRS, OURS, *FURTHER = re.findall(r"(?<!services -->\n)```python\n(.*?)```", PAGE, flags=re.DOTALL)

PRIMITIVES = (
    *("function", "gen", "gen_int", "gen_string", "select", "system", "user", "assistant", "image", "video"),
    *("separate_reasoning", "set_default_backend", "flush_cache", "RuntimeEndpoint", "Runtime", "Engine", "OpenAI"),
    *("Anthropic", "VertexAI", "LiteLLM"),
)
METHODS = (
    *("run", "run_batch", "bind", "trace", "cache", "fork", "join", "copy", "text", "messages", "sync", "error"),
    *("get_meta_info", "text_iter", "text_async_iter", "var_scope"),
)


@pytest.fixture(autouse=True)
def default_backend() -> Iterator[None]:
    yield
    set_default_backend(None)


def run(source: str, names: dict[str, Any]) -> None:
    """Run a block; a server's address in it means a fake."""
    exec(compile(re.sub(r'"http://[^"]*"', "FAKE", source), "coming-from-sglang.md", "exec"), names)


def test_the_blocks_of_our_side_run(capsys: pytest.CaptureFixture[str]) -> None:
    remarks = ["clear", "thin", "plain"]
    answers = {"remark": remarks, "summary": "Fine.", "points": "7", "grade": ["B"]}
    names: dict[str, Any] = {"__name__": "page", "FAKE": Fake(answers)}
    run(OURS, names)
    result: Result[None] = names["result"]
    assert capsys.readouterr().out == "B 7\n" and result["remark"] == remarks
    assert "Sum this up:\nclear\nthin\nplain" in [message["content"] for message in result.messages()]
    set_default_backend(Fake({"grade": '{"points": 8, "letter": "B"}'}))
    for block in FURTHER:
        run(block, names)
    assert capsys.readouterr().out == "[8, 8]\n"


def test_the_port_goes_line_by_line() -> None:
    theirs, ours = (text[text.index("SIDES") :].splitlines() for text in (THEIRS, OURS))
    assert len(theirs) == len(ours)
    same = [one.replace("sgl.", "") == other for one, other in zip(theirs, ours, strict=True)]
    # The signature, the join, the backend, the run and what is printed.
    assert same.count(False) == 5


def test_the_block_that_starts_services_names_what_there_is() -> None:
    block = PAGE.split("<!-- starts services -->")[1]
    compile(re.findall(r"```python\n(.*?)```", block, flags=re.DOTALL)[0], "coming-from-sglang.md", "exec")
    named = set(re.findall(r"engine\.(\w+)", block)) - {"async_generate", "shutdown"}
    assert named == {"generate", "agenerate", "chat", "achat", "close", "backend"}
    assert all(hasattr(Engine, name) for name in named)


@pytest.mark.parametrize("name", (*PRIMITIVES, *METHODS))
def test_each_primitive_is_on_the_page(name: str) -> None:
    prose = re.sub(r"^```.*?^```", "", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert re.search(rf"\b{name}\b", " ".join(re.findall(r"`([^`\n]+)`", prose)))


def test_methods_that_are_said_to_be_the_same_are_there() -> None:
    same = PAGE.split("are the same: ")[1].split("\n\n")[0]
    methods = set(re.findall(r"`s\.(\w+)\(", same))
    assert len(methods) == 6 and all(hasattr(State, name) for name in methods)
    assert all(hasattr(Function, name) for name in re.findall(r"\| `f\.(\w+)\([^|]*\| `f\.\1\(", PAGE))
