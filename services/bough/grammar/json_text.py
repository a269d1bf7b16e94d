"""The parts of a JSON text as grammar expressions: white space, strings, numbers, and any value."""

from __future__ import annotations

import json
from typing import Any

from bough.grammar.automaton import right_linear_rules
from bough.grammar.ebnf import (
    EMPTY,
    NOTHING,
    Alt,
    Expr,
    Guarded,
    Literal,
    OneOf,
    Ranges,
    Ref,
    Repeat,
    Seq,
    alt,
    chars,
    complement,
    intersect,
    normalize,
    optional,
    seq,
)

MAX_WHITESPACE = 16
"""Characters of white space in a row between the parts of a JSON text: room for the indentation of deep nesting.

With no bound, a model that does not know how to go on puts line breaks until its tokens are used up.
"""
MAX_EXPONENT_DIGITS = 2
"""Of a number: three of them could name one that a double does not hold, which parsers make infinite."""

WS = Ref("ws")
COMMA = Seq((WS, Literal(","), WS))
COLON = Seq((WS, Literal(":"), WS))
QUOTE = Literal('"')
DIGIT = OneOf(((0x30, 0x39),))
NON_ZERO = OneOf(((0x31, 0x39),))
STRING = Ref("string")
INTEGER = Ref("integer")
NUMBER = Ref("number")
ANY = Ref("any")
MAX_COUNTED = 128
"""Characters of a string that are counted one by one."""
BLOCK_CHARS = 64
_SHORT_ESCAPE = chars('"\\/bfnrt')
_HEX = OneOf(normalize([(0x30, 0x39), (0x41, 0x46), (0x61, 0x66)]))
_CONTROL = ((0, 0x1F),)
SURROGATES = ((0xD800, 0xDFFF),)
_MUST_ESCAPE = normalize([*_CONTROL, (0x22, 0x22), (0x5C, 0x5C)])
RAW: Ranges = complement(normalize([*_MUST_ESCAPE, *SURROGATES]))
"""What may stand in a string as it is."""
_ESCAPES = {0x22: '\\"', 0x5C: "\\\\", 0x08: "\\b", 0x0C: "\\f", 0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t"}


def char() -> Expr:
    """Any one character of a string."""
    # Surrogates are left out: half of a pair is no character, and a pair of escapes would count as two.
    return alt(OneOf(RAW), seq(Literal("\\"), _escape()))


def _escape() -> Expr:
    return alt(
        _SHORT_ESCAPE,
        seq(Literal("u"), OneOf(normalize([(0x30, 0x39), *_letters("abcef")])), Repeat(_HEX, 3, 3)),
        seq(Literal("u"), chars("dD"), OneOf(((0x30, 0x37),)), Repeat(_HEX, 2, 2)),
    )


def base_rules() -> dict[str, Expr]:
    """The rules that WS, STRING, INTEGER, NUMBER and ANY refer to."""
    member = seq(STRING, COLON, ANY)
    rest = Ref("string_rest")
    return {
        "ws": Repeat(chars(" \n\r\t"), 0, MAX_WHITESPACE),
        "string": seq(QUOTE, rest),
        # Calls itself at its end only, for which matchers need not look beyond the rule.
        "string_rest": Guarded(alt(QUOTE, seq(OneOf(RAW), rest), seq(Literal("\\"), Ref("escape"), rest))),
        "escape": _escape(),
        **terminal("integer", integer()),
        **terminal("number", number()),
        "object": seq(Literal("{"), WS, optional(seq(listed(member), WS)), Literal("}")),
        "array": seq(Literal("["), WS, optional(seq(listed(ANY), WS)), Literal("]")),
        "any": Alt(
            (Ref("object"), Ref("array"), STRING, NUMBER, *map(Literal, ("true", "false", "null"))),
        ),
    }


def terminal(name: str, *parts: Expr) -> dict[str, Expr]:
    """Rules for a value without inner rules that is all of some, the first under `name`.

    Raises:
        AutomatonError: It takes too many.
    """
    return {rule: Guarded(expr) for rule, expr in right_linear_rules(name, *parts).items()}


def counted_string(rules: dict[str, Expr], least: int, most: int | None) -> Expr:
    """A string of between `least` and `most` characters; adds the rules it needs.

    One rule for each number of characters that are left, shared by all strings: what is compiled for a length is there
    for the shorter ones. Lengths above `MAX_COUNTED` are made of blocks, which cost less to compile and more to match.
    """
    if most is not None and most < least:
        return NOTHING
    blocks: list[Expr] = []
    if least > MAX_COUNTED:
        num_blocks, least = divmod(least, BLOCK_CHARS)
        blocks = [Repeat(_block(rules), num_blocks, num_blocks)]
        most = None if most is None else most - num_blocks * BLOCK_CHARS
    if most is None or most <= MAX_COUNTED:
        return seq(QUOTE, *blocks, _at_least(rules, least, None if most is None else most - least))
    # Between: full blocks and a rest, of which only the last may reach the bound.
    optional_chars = most - least
    num_blocks, left = divmod(optional_chars, BLOCK_CHARS)
    block = _block(rules)
    tail = seq(Repeat(block, num_blocks, num_blocks), _at_least(rules, 0, left))
    if num_blocks:
        tail = alt(seq(Repeat(block, 0, num_blocks - 1), _at_least(rules, 0, BLOCK_CHARS - 1)), tail)
    fixed: Expr = EMPTY
    if least:
        fixed = Ref(f"exactly_{least}")
        rules.update(right_linear_rules(f"exactly_{least}", Repeat(short_char(), least, least)))
    return seq(QUOTE, *blocks, fixed, tail)


def short_char() -> Expr:
    """A character of a counted string: without escapes by number, which would double the states that count."""
    return alt(OneOf(RAW), seq(Literal("\\"), _SHORT_ESCAPE))


def _block(rules: dict[str, Expr]) -> Ref:
    if "block" not in rules:
        rules.update(right_linear_rules("block", Repeat(short_char(), BLOCK_CHARS, BLOCK_CHARS)))
    return Ref("block")


def _at_least(rules: dict[str, Expr], least: int, more: int | None) -> Expr:
    """The rest of a string, its quote included: `least` characters and then up to `more`."""
    if more is None:
        name = "string_rest"
    else:
        rules.setdefault("chars_0", Guarded(QUOTE))
        for count in range(1, more + 1):
            rules.setdefault(f"chars_{count}", Guarded(alt(QUOTE, *_one_char(f"chars_{count - 1}"))))
        name = f"chars_{more}"
    for count in range(1, least + 1):
        longer = f"{name}_{count}" if count == 1 else f"{name.rpartition('_')[0]}_{count}"
        rules.setdefault(longer, Guarded(alt(*_one_char(name))))
        name = longer
    return Ref(name)


def _one_char(then: str) -> list[Expr]:
    return [seq(OneOf(RAW), Ref(then)), seq(Literal("\\"), _SHORT_ESCAPE, Ref(then))]


def listed(item: Expr) -> Expr:
    """One or more, with commas between them."""
    return seq(item, Repeat(seq(COMMA, item)))


def integer() -> Expr:
    """Any integer."""
    return seq(optional(Literal("-")), natural())


def natural() -> Expr:
    """Any integer from 0 on."""
    return alt(Literal("0"), seq(NON_ZERO, Repeat(DIGIT)))


def number() -> Expr:
    """Any number, with an exponent of at most `MAX_EXPONENT_DIGITS`."""
    fraction = seq(Literal("."), Repeat(DIGIT, 1))
    exponent = seq(chars("eE"), optional(chars("+-")), Repeat(DIGIT, 1, MAX_EXPONENT_DIGITS))
    return seq(integer(), optional(fraction), optional(exponent))


def value(data: Any) -> Literal:
    """Exactly one value, written without white space."""
    return Literal(json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False))


def string_chars(ranges: Ranges) -> Expr:
    """One character of a set, as it stands in a JSON string: escaped where it must be."""
    raw = intersect(ranges, RAW)
    options: list[Expr] = [OneOf(raw)] if raw else []
    escaped = [code for low, high in intersect(ranges, _MUST_ESCAPE) for code in range(low, high + 1)]
    # Control characters that have no short escape only where the set has nothing else: each is a chain of six states.
    options += [Literal(_ESCAPES[code]) for code in escaped if code in _ESCAPES]
    if not options:
        options = [Literal(f"\\u{code:04x}") for code in escaped]
    return alt(*options)


def _letters(text: str) -> list[tuple[int, int]]:
    return [(ord(c), ord(c)) for letter in text for c in (letter, letter.upper())]
