"""Expressions and rules of a context-free grammar, and their text in xgrammar's EBNF.

Alternatives that can never end in a text (an object that must contain itself, a property that nothing may be) are left
out when a grammar is printed, since a matcher would walk into them and never come out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

MAX_CODE_POINT = 0x10FFFF
Ranges = tuple[tuple[int, int], ...]
"""Code points as sorted ranges, both ends included, that neither touch nor overlap."""


@dataclass(frozen=True, slots=True)
class Literal:
    """A fixed text."""

    text: str


@dataclass(frozen=True, slots=True)
class OneOf:
    """One character of a set."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Ref:
    """What a rule says."""

    rule: str


@dataclass(frozen=True, slots=True)
class Seq:
    """One after another; the empty text when there is none."""

    parts: tuple[Expr, ...] = ()


@dataclass(frozen=True, slots=True)
class Alt:
    """One of several; nothing at all when there is none."""

    options: tuple[Expr, ...] = ()


@dataclass(frozen=True, slots=True)
class Repeat:
    """Between `least` and `most` times; without an upper bound where `most` is None."""

    part: Expr
    least: int = 0
    most: int | None = None

    def __post_init__(self) -> None:
        """Refuses counts that xgrammar would read as something else: below zero is without a bound."""
        if self.least < 0 or (self.most is not None and self.most < self.least):
            raise ValueError(f"between {self.least} and {self.most} times is not possible")


@dataclass(frozen=True, slots=True)
class Guarded:
    """A part of a JSON text behind which white space and then a separator come; only the whole of a rule.

    It says nothing new, and lets tokens that go on in another way be ruled out beforehand.
    """

    part: Expr


Expr = Literal | OneOf | Ref | Seq | Alt | Repeat | Guarded
_SEPARATOR_FOLLOWS = r"(= [ \n\r\t]{0,16} [,}\]:])"
EMPTY = Seq()
NOTHING = Alt()


def seq(*parts: Expr) -> Expr:
    """One after another."""
    return parts[0] if len(parts) == 1 else Seq(parts)


def alt(*options: Expr) -> Expr:
    """One of several."""
    return options[0] if len(options) == 1 else Alt(options)


def optional(part: Expr) -> Expr:
    """Once or not at all."""
    return Repeat(part, 0, 1)


def chars(text: str) -> OneOf:
    """One of the characters of a text."""
    return OneOf(normalize((ord(c), ord(c)) for c in text))


def normalize(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Ranges sorted, those that touch joined."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return tuple(merged)


def complement(ranges: Ranges) -> Ranges:
    """All other code points."""
    gaps: list[tuple[int, int]] = []
    begin = 0
    for low, high in ranges:
        if low > begin:
            gaps.append((begin, low - 1))
        begin = high + 1
    if begin <= MAX_CODE_POINT:
        gaps.append((begin, MAX_CODE_POINT))
    return tuple(gaps)


def intersect(left: Ranges, right: Ranges) -> Ranges:
    """Code points that are in both."""
    return complement(normalize((*complement(left), *complement(right))))


def lengths(expr: Expr) -> tuple[int, int | None]:
    """Bounds of the characters of a text: at least, and at most; None where there is no most. Without references."""
    match expr:
        case Literal(text):
            return len(text), len(text)
        case OneOf():
            return 1, 1
        case Seq(parts):
            found = [lengths(part) for part in parts]
            return sum(low for low, _ in found), _unless_endless(sum, [high for _, high in found])
        case Alt(options):
            found = [lengths(option) for option in options] or [(0, 0)]
            return min(low for low, _ in found), _unless_endless(max, [high for _, high in found])
        case Repeat(part, least, most):
            low, high = lengths(part)
            return low * least, None if most is None or high is None else high * most
    raise AssertionError(f"{expr!r} has references")


def _unless_endless(pick: Callable[[list[int]], int], values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return pick(known) if len(known) == len(values) else None


def productive_rules(rules: dict[str, Expr]) -> set[str]:
    """The rules from which some text can be derived."""
    users: dict[str, list[str]] = {}
    for name, expr in rules.items():
        for used in set(_refs(expr)):
            users.setdefault(used, []).append(name)
    known: set[str] = set()
    queue = list(rules)
    while queue:
        name = queue.pop()
        if name not in known and _is_productive(rules[name], known):
            known.add(name)
            queue += users.get(name, ())
    return known


def find_unit_cycle(rules: dict[str, Expr]) -> str | None:
    """A rule that leads back to itself with nothing in between; None where there is none."""
    state: dict[str, bool] = {}  # False: under way, True: done
    for start in rules:
        stack = [(start, iter(_unit_refs(rules[start])))] if start not in state else []
        state.setdefault(start, False)
        while stack:
            name, refs = stack[-1]
            target = next(refs, None)
            if target is None:
                state[name] = True
                stack.pop()
            elif target not in state:
                state[target] = False
                stack.append((target, iter(_unit_refs(rules[target]))))
            elif not state[target]:
                return target
    return None


def print_grammar(rules: dict[str, Expr], root: str) -> str | None:
    """The grammar in EBNF with `root` as its root; None when no text fits it."""
    productive = productive_rules(rules)
    if root not in productive:
        return None
    reached: dict[str, str] = {}
    queue = [root]
    while queue:
        name = queue.pop()
        if name in reached:
            continue
        pruned = _prune(rules[name], productive)
        assert pruned is not None
        reached[name] = _text(pruned)
        queue += _refs(pruned)
    if root != "root":
        reached["root"] = root
    return "".join(f"{name} ::= {text}\n" for name, text in reached.items())


def _refs(expr: Expr) -> Iterator[str]:
    match expr:
        case Ref(rule):
            yield rule
        case Seq(parts) | Alt(parts):
            for part in parts:
                yield from _refs(part)
        case Repeat(part) | Guarded(part):
            yield from _refs(part)


def _unit_refs(expr: Expr) -> list[str]:
    match expr:
        case Ref(rule):
            return [rule]
        case Alt(options):
            return [name for option in options for name in _unit_refs(option)]
    return []


def _is_productive(expr: Expr, known: set[str]) -> bool:
    match expr:
        case Ref(rule):
            return rule in known
        case Seq(parts):
            return all(_is_productive(part, known) for part in parts)
        case Alt(options):
            return any(_is_productive(option, known) for option in options)
        case Repeat(part, least):
            return least == 0 or _is_productive(part, known)
        case OneOf(ranges):
            return bool(ranges)
        case Guarded(part):
            return _is_productive(part, known)
    return True


def _prune(expr: Expr, productive: set[str]) -> Expr | None:
    """Without what leads nowhere; None when nothing is left."""
    if not _is_productive(expr, productive):
        return None
    match expr:
        case Seq(parts):
            return Seq(tuple(kept for part in parts if (kept := _prune(part, productive)) is not None))
        case Alt(options):
            return alt(*(kept for option in options if (kept := _prune(option, productive)) is not None))
        case Repeat(part, least, most):
            inner = _prune(part, productive)
            return EMPTY if inner is None or most == 0 else Repeat(inner, least, most)
        case Guarded(part):
            inner = _prune(part, productive)
            assert inner is not None
            return Guarded(inner)
    return expr


def _text(expr: Expr) -> str:
    match expr:
        case Literal(text):
            return '"' + "".join(_literal_char(c) for c in text) + '"'
        case OneOf(ranges):
            return "[" + "".join(_range(low, high) for low, high in ranges) + "]"
        case Ref(rule):
            return rule
        case Seq(parts):
            return "(" + " ".join(map(_text, parts)) + ")" if parts else '""'
        case Alt(options):
            return "(" + " | ".join(map(_text, options)) + ")"
        case Repeat(part, least, most):
            # Counts do not stand behind one another.
            inner = f"({_text(part)})" if isinstance(part, Repeat) else _text(part)
            if (least, most) == (0, None):
                return f"{inner}*"
            return f"{inner}{{{least},{'' if most is None else most}}}"
        case Guarded(part):
            return f"({_text(part)}) {_SEPARATOR_FOLLOWS}"
    raise AssertionError(f"{expr!r} is no expression")


def _literal_char(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    return char if " " <= char <= "~" else f"\\U{ord(char):08x}"


def _range(low: int, high: int) -> str:
    return _class_char(low) if low == high else f"{_class_char(low)}-{_class_char(high)}"


def _class_char(code: int) -> str:
    return chr(code) if chr(code).isascii() and chr(code).isalnum() else f"\\U{code:08x}"
