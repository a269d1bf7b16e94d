"""What a state holds that its backend has not been told yet.

Text is held back until a call needs it, so that texts added one after the other are one text to the backend, cut into
tokens as a whole. Turns are held back until they are whole, since no chat template renders half a turn of a user.
"""

from __future__ import annotations

from copy import copy

from bough.lang.backends.base import ChatMessages, Content, Message, PlainText
from bough.lang.errors import ExpressionError
from bough.lang.expressions import Role


class Writer:
    """Gathers text and turns, and hands over what a backend must be told."""

    __slots__ = ("_branched_at", "_is_open", "_messages", "_outgoing", "_role", "_turn", "_unsent", "_unsent_messages")

    def __init__(self) -> None:
        self._messages: tuple[Message, ...] = ()
        self._unsent_messages: tuple[Message, ...] = ()
        self._outgoing: tuple[Content, ...] = ()
        """Comes before everything that is unsent."""
        self._role: Role | None = None
        self._turn = ""
        """Text of the turn that goes on."""
        self._unsent = ""
        """Its end, or that of a plain text."""
        self._is_open = False
        """The backend knows of the assistant's turn that goes on."""
        self._branched_at = (0, 0)
        """Messages, and characters of the turn, that the state had when it branched."""

    def text(self, text: str) -> None:
        """Text that the program adds."""
        self._turn += text if self._role is not None else ""
        self._unsent += text

    def produced(self, text: str) -> None:
        """Text that the backend has added itself."""
        self._turn += text if self._role is not None else ""

    def begin(self, role: Role) -> None:
        """A turn begins."""
        self._role = role

    def end(self) -> None:
        """The turn ends."""
        assert self._role is not None
        message = Message(self._role, self._turn)
        self._messages += (message,)
        if self._is_open:
            self._outgoing += (PlainText(self._unsent),) if self._unsent else ()
        else:
            self._unsent_messages += (message,)
        self._role, self._turn, self._unsent, self._is_open = None, "", "", False

    def messages(self) -> tuple[Message, ...]:
        """All turns, with the one that goes on."""
        return self._messages if self._role is None else (*self._messages, Message(self._role, self._turn))

    def take(self) -> tuple[Content, ...]:
        """What the backend must be told before a call, or before the state branches; it counts as told."""
        contents = self._outgoing
        if self._role == "assistant" and not self._is_open:
            contents += (ChatMessages(self._unsent_messages, opens_turn=True),)
            self._unsent_messages, self._is_open = (), True
        elif self._unsent_messages:
            contents += (ChatMessages(self._unsent_messages),)
            self._unsent_messages = ()
        if self._unsent and self._role in (None, "assistant"):
            contents += (PlainText(self._unsent),)
            self._unsent = ""
        self._outgoing = ()
        return contents

    def branch(self) -> Writer:
        """That of a branch; everything has been taken."""
        branch = copy(self)
        branch._branched_at = (len(self._messages), len(self._turn))
        return branch

    def snapshot(self) -> Writer:
        """As it is now, to go back to."""
        return copy(self)

    def absorb(self, branch: Writer) -> None:
        """Take over what a branch has got since it branched, of which the backend has been told.

        Raises:
            ExpressionError: It is part of a turn that the state is not in.
        """
        num_messages, num_characters = branch._branched_at
        new = branch._messages[num_messages:]
        if branch._role != self._role or (new and branch._role is not None):
            at_end = f"in a turn of {branch._role}" if branch._role else "outside of a turn"
            here = f"in one of {self._role}" if self._role else "outside"
            raise ExpressionError(f"join: a branch ends {at_end} and the state is {here}, so it cannot be appended")
        self._messages += new
        if self._role is not None:
            self._turn += branch._turn[num_characters:]
