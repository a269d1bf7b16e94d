"""What a backend is told, and when."""

from __future__ import annotations

from bough.lang.backends.base import ChatMessages, Message, PlainText
from bough.lang.writer import Writer


def test_texts_in_a_row_are_one_text() -> None:
    writer = Writer()
    writer.text("a")
    writer.text("b")
    assert writer.take() == (PlainText("ab"),)
    assert writer.take() == ()


def test_turns_are_told_when_the_assistant_speaks() -> None:
    writer = Writer()
    writer.begin("system")
    writer.text("Be ")
    writer.text("brief.")
    writer.end()
    writer.begin("user")
    writer.text("Hi")
    writer.end()
    writer.begin("assistant")
    writer.text("Well, ")
    known = (Message("system", "Be brief."), Message("user", "Hi"))
    assert writer.take() == (ChatMessages(known, opens_turn=True), PlainText("Well, "))
    writer.produced("hello")
    writer.text("!")
    writer.end()
    assert writer.messages() == (*known, Message("assistant", "Well, hello!"))
    # The end of the turn is told before what comes after it.
    writer.begin("user")
    writer.text("Bye")
    writer.end()
    assert writer.take() == (PlainText("!"), ChatMessages((Message("user", "Bye"),)))


def test_a_turn_that_is_not_whole_is_held_back_in_each_branch() -> None:
    writer = Writer()
    writer.begin("user")
    writer.text("Once")
    assert writer.take() == ()
    branch = writer.branch()
    branch.text(" more")
    assert branch.take() == ()
    writer.absorb(branch)
    writer.end()
    assert writer.take() == (ChatMessages((Message("user", "Once more"),)),)
