"""The command line: help, mistakes, exit codes, and what it costs to start."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bough.cli.main import main
from bough.common.config import Settings


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in ("serve", "service", "chat", "health", "version"))


def test_no_command_is_a_usage_error() -> None:
    assert main([]) == 2


def test_an_unknown_command_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serv"]) == 2
    assert "did you mean serve?" in capsys.readouterr().err


def test_version_prints_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out.startswith("bough ")


@pytest.mark.parametrize("flag", ["--prot=1", "--prot"])
def test_an_unknown_flag_is_answered_with_the_nearest(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["serve", flag, "1"])
    assert caught.value.code == 2
    assert "did you mean --port?" in capsys.readouterr().err


def test_explain_tells_value_and_source_of_every_setting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOUGH_MAX_QUEUE", "7")
    monkeypatch.setenv("BOUGH_API_KEY", "s3cret")
    assert main(["serve", "--explain", "--port", "8137"]) == 0
    lines = {line.split()[0]: line.split(maxsplit=2)[1:] for line in capsys.readouterr().out.splitlines()}
    assert set(lines) == set(Settings.model_fields)
    assert lines["port"] == ["8137", "--port"]
    assert lines["grpc_port"][0] == "8138"
    assert lines["max_queue"] == ["7", "BOUGH_MAX_QUEUE"]
    assert lines["api_key"] == ["**********", "BOUGH_API_KEY"]
    assert "measured by the executor" in lines["kv_pages"][1]


def test_help_imports_neither_pydantic_nor_grpc() -> None:
    program = (
        "import sys; from bough.cli.main import main; main(['--help']);"
        "sys.exit(any(name in sys.modules for name in ('pydantic', 'grpc', 'httpx', 'rich', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-P", "-c", program], capture_output=True).returncode == 0


def test_health_imports_grpc_and_little_else() -> None:
    program = (
        "import sys; from bough.cli.main import main; main(['health', '127.0.0.1:1', '--timeout-s', '0.01']);"
        "sys.exit(any(name in sys.modules for name in ('pydantic', 'opentelemetry', 'httpx', 'rich', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-P", "-c", program], capture_output=True).returncode == 0
