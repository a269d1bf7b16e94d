"""`bough chat` in a pipe."""

from __future__ import annotations

from tests.integration.server import Server, run_to_end


def test_a_conversation_through_a_pipe_remembers_what_was_said(server: Server) -> None:
    lines = "Hello! My name is Anna.\nWhat is my name?\n/reset\nWhat is 7 plus 5?\n"
    done = run_to_end(["chat", "--url", server.url, "--temperature", "0"], text=lines)
    assert done.returncode == 0, done.stderr
    answers = done.stdout.splitlines()
    assert len(answers) == 3, done.stdout
    assert "Anna" in answers[1]
    assert "12" in answers[2]


def test_where_no_server_is_the_command_says_so_and_fails() -> None:
    done = run_to_end(["chat", "--url", "http://127.0.0.1:1"], text="Hello\n")
    assert done.returncode == 1
    assert "no server answers at http://127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
