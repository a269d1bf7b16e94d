"""Llama 3.2 and 4 and others: a Python list of calls with keyword arguments, all of them literals."""

from __future__ import annotations

import ast
import io
import keyword
import re
import tokenize
import warnings
from collections.abc import Sequence
from typing import Any

from bough.gateway.parsers.json_text import encode
from bough.gateway.parsers.scanner import CallScanner
from bough.gateway.parsers.spec import ToolSpec

_PLAIN = re.compile(r"[^\"'()\[\]{}]+")
_QUOTE = re.compile(r"\"\"\"|'''|\"|'")
_STRING_PART = re.compile(r"[^\"'\\]+")

_HAS_WORD = re.compile(rf"\b(?:{'|'.join(keyword.kwlist)})\s*=")
_RENAMED = "_word_of_python_"
_LINE_BREAKS = frozenset([tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT])
_OPENING, _CLOSING = frozenset("([{"), frozenset(")]}")

_JSON_WORDS = {"true": True, "false": False, "null": None}
"""Models write them now and then; as Python they would be names."""


class PythonicParser(CallScanner):
    """Reads `[name(a=1, b="x"), other()]`.

    A call is said when it is there as a whole: only then is it certain that its arguments are literals.
    """

    def __init__(self, tools: Sequence[ToolSpec]) -> None:
        super().__init__(tools, {f"[{tool.name}(": self._begin_call for tool in tools})
        self._name = ""
        self._from = 0
        """Where the arguments of the call begin in the text."""
        self._brackets = Brackets()

    def _begin_call(self) -> bool:
        self._name = self._text[1 : self._at - 1]
        return self._begin_brackets()

    def _begin_brackets(self) -> bool:
        self._from = self._at
        self._brackets = Brackets()
        return self._go(self._read_call)

    def _read_call(self) -> bool:
        self._at = self._brackets.scan(self._text, self._at)
        if not self._brackets.done:
            return self._fail_whole(len(self._text)) if self._ended else False
        arguments = keyword_arguments(self._text[self._from : self._at])
        if arguments is None:
            return self._fail_whole(self._at)
        self._at += 1
        self._say(self._name)
        self._said.arguments(arguments)
        return self._go(self._behind_call)

    def _fail_whole(self, end: int) -> bool:
        """No call up to this place: read anew from every bracket, nested ones would take time squared."""
        self._unsaid = end
        return self._fail()

    def _behind_call(self) -> bool:
        self._drop_read()
        marker = self._next(",", "]")
        if marker is None:
            return self._wait()
        return self._begin(self._at, self._read_name) if marker == "," else self._go(self._read_content)

    def _read_name(self) -> bool:
        found = self._next_name("(")
        if found is None:
            return self._wait()
        self._name = found[0]
        return self._begin_brackets() if self._name else self._fail()


class Brackets:
    """Follows Python text to the closing bracket of a call, past nested brackets and strings."""

    def __init__(self) -> None:
        self.done = False
        self._depth = 0
        self._quote = ""

    def scan(self, text: str, at: int) -> int:
        """Read on from a place in the text; returns where the bracket is, or the place that more text is needed for.

        Three quotes can be told from one only with the text behind them.
        """
        while at < len(text) and not self.done:
            step = self._scan_string(text, at) if self._quote else self._scan_code(text, at)
            if step == at and not self.done:
                break
            at = step
        return at

    def _scan_code(self, text: str, at: int) -> int:
        if part := _PLAIN.match(text, at):
            return part.end()
        if text[at] in "\"'":
            if len(text) < at + 3 and text[at] * (len(text) - at) == text[at:]:
                return at
            quote = _QUOTE.match(text, at)
            self._quote = quote[0] if quote else ""
            return at + len(self._quote)
        if text[at] in "([{":
            self._depth += 1
        elif self._depth:
            self._depth -= 1
        else:
            self.done = True
            return at
        return at + 1

    def _scan_string(self, text: str, at: int) -> int:
        if part := _STRING_PART.match(text, at):
            return part.end()
        if text[at] == "\\":
            return at + 2 if len(text) > at + 1 else at
        if text.startswith(self._quote, at):
            end = at + len(self._quote)
            self._quote = ""
            return end
        return at if self._quote.startswith(text[at:]) else at + 1


def keyword_arguments(text: str) -> str | None:
    """What stands between a call's brackets as a JSON object; None unless it is keywords with literals."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know: a model may write them
            call = ast.parse(f"_({_renamed(text)}\n)", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            return None
        if any(word.arg is None for word in call.keywords):
            return None
        return encode({str(word.arg).removeprefix(_RENAMED): _literal(word.value) for word in call.keywords})
    except (SyntaxError, tokenize.TokenError, ValueError, TypeError, MemoryError, RecursionError):
        return None


def _renamed(text: str) -> str:
    """Arguments such as `from=1`, whose names are words of Python, under other names."""
    if not _HAS_WORD.search(text):
        return text
    lines = io.StringIO(f"({text}\n)", newline="\n").readlines()
    tokens = [token for token in tokenize.generate_tokens(iter(lines).__next__) if token.type not in _LINE_BREAKS]
    places: list[tuple[int, int]] = []
    depth = 0
    for before, token, behind in zip(tokens, tokens[1:], tokens[2:], strict=False):
        depth += (before.string in _OPENING) - (before.string in _CLOSING) if before.type == tokenize.OP else 0
        is_argument = depth == 1 and before.string in ("(", ",") and behind.string == "="
        if is_argument and token.type == tokenize.NAME and keyword.iskeyword(token.string):
            places.append(token.start)
    for row, column in reversed(places):
        lines[row - 1] = lines[row - 1][:column] + _RENAMED + lines[row - 1][column:]
    return "".join(lines)[1:-2]


def _literal(node: ast.expr) -> Any:
    """The value of a literal; ValueError for any other expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | None):
        return node.value
    if isinstance(node, ast.Name) and node.id in _JSON_WORDS:
        return _JSON_WORDS[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        keys = [_literal(key) if key else None for key in node.keys]
        if all(isinstance(key, str) for key in keys):
            return dict(zip(keys, map(_literal, node.values), strict=True))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        operand = _literal(node.operand)
        if isinstance(operand, int | float) and not isinstance(operand, bool):
            return -operand
    raise ValueError(ast.dump(node)[:100])
