"""LangChain, LlamaIndex and instructor, each in the environment that `make install` gives them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from tests.helpers.repository import ROOT
from tests.integration.server import Server

CLIENTS = Path(__file__).parent / "python_clients"
PYTHON = ROOT / ".venv-clients" / "bin" / "python"


class Order(BaseModel):
    """As the clients have it."""

    product: Literal["bread", "cake", "roll"]
    pieces: int = Field(ge=1, le=99)
    gift: bool


class Weather(BaseModel):
    """As the clients have it."""

    city: Literal["Bern", "Oslo"]


def report_of(library: str, server: Server) -> dict[str, Any]:
    """What the client of a library prints."""
    if not PYTHON.exists():
        pytest.fail(f"{PYTHON.parent.parent.name} is missing; run: make install")
    variables = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    done = subprocess.run(
        [str(PYTHON), "-P", str(CLIENTS / f"{library}_client.py"), server.url],
        capture_output=True,
        text=True,
        timeout=120,
        env=variables | {"LANGSMITH_TRACING": "false"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_langchain_gets_typed_answers_and_calls_tools(server: Server) -> None:
    report = report_of("langchain", server)
    for method in ("json_schema", "function_calling"):
        answers = report["structured"][method]
        Order.model_validate(answers["whole"])
        assert answers["streamed"] == answers["whole"]
    assert isinstance(report["structured"]["json_mode"]["whole"], dict)
    for choice, finish in (("any", "tool_calls"), ("Weather", "stop")):
        calls = report["tools"][choice]
        assert [call["name"] for call in calls["whole"]] == ["Weather"]
        Weather.model_validate(calls["whole"][0]["args"])
        assert calls["streamed"] == calls["whole"]
        assert calls["num_chunks"] > 3
        assert calls["finish_reason"] == finish
    after = report["tools"]["after_result"]
    assert after["content"] or after["calls"]


def test_instructor_gets_typed_answers_by_calls_and_by_format(server: Server) -> None:
    report = report_of("instructor", server)
    for mode in ("tools", "json_schema"):
        Order.model_validate(report[mode]["whole"])
        Order.model_validate(report[mode]["streamed"])
        assert report[mode]["num_partials"] > 3
    assert report["iterable"]
    for order in report["iterable"]:
        Order.model_validate(order)


def test_llama_index_gets_typed_answers_and_calls_tools(server: Server) -> None:
    report = report_of("llama_index", server)
    for way in ("by_call", "by_format"):
        Order.model_validate(report[way]["whole"])
        Order.model_validate(report[way]["streamed"])
    for way in ("whole", "streamed"):
        calls = report["tools"][way]
        assert calls
        for arguments in calls:
            Weather.model_validate(arguments)
    assert report["tools"]["called"].startswith("sunny in ")
