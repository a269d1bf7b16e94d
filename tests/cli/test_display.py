"""What a person sees of the launcher."""

from __future__ import annotations

import io

from bough.cli.display import Display


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_carry_the_name_of_their_service_once() -> None:
    stream = io.StringIO()
    display = Display(["executor"], stream=stream)
    display.line("executor", "12:00:00 INFO    executor    loaded")
    display.line("executor", "Killed")
    assert stream.getvalue().splitlines() == ["12:00:00 INFO    executor    loaded", "executor | Killed"]


def test_machine_readable_lines_are_left_as_they_are() -> None:
    stream = io.StringIO()
    Display(["executor"], stream=stream, plain_lines=True).line("executor", '{"message": "loaded"}')
    assert stream.getvalue() == '{"message": "loaded"}\n'


def test_a_terminal_gets_a_live_line_while_loading_and_none_afterwards() -> None:
    stream = Terminal()
    display = Display(["executor", "gateway"], stream=stream)
    display.begin("a model")
    display.loaded("gateway")
    display.waiting_for("executor: loading")
    display.line("executor", "[bold]not markup[/bold]")
    display.end()
    display.say("afterwards")
    shown = stream.getvalue()
    assert "gateway is up after" in shown
    assert "executor | [bold]not markup[/bold]" in shown
    assert shown.endswith("bough: afterwards\n")


def test_a_pipe_gets_plain_lines() -> None:
    stream = io.StringIO()
    display = Display(["executor"], stream=stream)
    display.begin("a model")
    display.loaded("executor")
    display.end()
    assert "\x1b" not in stream.getvalue()
    assert stream.getvalue().startswith("bough: starting a model: executor\nbough: executor is up after")
