"""Numbers between bounds as grammars of their digits."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from bough.grammar.ebnf import EMPTY, NOTHING, Expr, Literal, OneOf, Ref, Repeat, alt, optional, seq
from bough.grammar.json_text import DIGIT, NON_ZERO, natural

MAX_BOUND_DIGITS = 9
"""Significant digits of a bound of numbers, and its digits before the point where it is excluded: with those behind the
point, 15 in all, which a double holds. An output with more could be rounded to the bound when it is parsed."""
MAX_BOUND = 10**15
MAX_MULTIPLES = 512
"""Multiples that are written out one by one, where a number has both bounds and a step."""
MAX_DIVISOR = 100
_FRACTION_DIGITS = 6
"""After the point, of numbers with bounds: enough for any use, and few enough that no output rounds to a bound."""


class RangeError(ValueError):
    """The bounds cannot be kept; the text begins with the keyword."""


@dataclass(frozen=True, slots=True)
class Bound:
    """One end of a range."""

    value: Decimal
    excluded: bool = False


def bounded_integer(low: Bound | None, high: Bound | None) -> Expr:
    """Integers between bounds, either of which may be missing; nothing where there is none."""
    least = None if low is None else _first_integer(low)
    most = None if high is None else -_first_integer(Bound(-high.value, high.excluded))
    options: list[Expr] = []
    if most is None or most >= 0:
        options.append(_naturals(max(least or 0, 0), most))
    if least is None or least < 0:
        # Mirrored: the magnitudes of the negative ones.
        magnitudes = _naturals(1 if most is None or most >= 0 else -most, None if least is None else -least)
        options.append(seq(Literal("-"), magnitudes))
    return alt(*options)


def bounded_number(low: Bound | None, high: Bound | None) -> Expr:
    """Numbers between bounds, written without an exponent."""
    for bound in (low, high):
        _check_bound(bound)
    zero = Bound(Decimal(0))
    options: list[Expr] = []
    if high is None or high.value >= 0:
        options.append(_magnitudes(low if low is not None and low.value >= 0 else zero, high))
    if low is None or low.value < 0:
        least = Bound(-high.value, high.excluded) if high is not None and high.value < 0 else Bound(Decimal(0), True)
        most = None if low is None else Bound(-low.value, low.excluded)
        options.append(seq(Literal("-"), _magnitudes(least, most)))
    return alt(*options)


def multiples(step: int, low: Bound | None, high: Bound | None) -> tuple[Expr, dict[str, Expr]]:
    """Integers that a step divides, and the rules that the expression needs.

    Raises:
        RangeError: There are bounds and too many multiples between them, or the step is too large.
    """
    if low is None and high is None:
        if step > MAX_DIVISOR:
            raise RangeError(f"multipleOf: {step} is above {MAX_DIVISOR}, which is supported only between bounds")
        return _divisible(step)
    if low is None or high is None:
        raise RangeError("multipleOf: beside one bound is not supported; give both minimum and maximum")
    first = -(-_first_integer(low) // step)
    last = -_first_integer(Bound(-high.value, high.excluded)) // step
    if last - first >= MAX_MULTIPLES:
        raise RangeError(f"multipleOf: more than {MAX_MULTIPLES} multiples between the bounds")
    return alt(*(Literal(str(n * step)) for n in range(first, last + 1))), {}


def _check_bound(bound: Bound | None) -> None:
    if bound is None:
        return
    if len(bound.value.normalize().as_tuple().digits) > MAX_BOUND_DIGITS:
        raise RangeError(
            f"a bound of numbers with more than {MAX_BOUND_DIGITS} digits ({bound.value}) is not supported"
        )
    most = 10**MAX_BOUND_DIGITS if bound.excluded else MAX_BOUND
    if abs(bound.value) > most:
        kind = "an excluded bound" if bound.excluded else "a bound"
        raise RangeError(f"{kind} of numbers beyond {most:.0e} ({bound.value}) is not supported")


def _divisible(step: int) -> tuple[Expr, dict[str, Expr]]:
    """One rule a remainder: what may follow the digits so far."""
    rules: dict[str, Expr] = {}
    for rest in range(step):
        options: list[Expr] = [EMPTY] if rest == 0 else []
        options += [seq(Literal(str(d)), Ref(f"mod{step}_{(rest * 10 + d) % step}")) for d in range(10)]
        rules[f"mod{step}_{rest}"] = alt(*options)
    first = alt(*(seq(Literal(str(d)), Ref(f"mod{step}_{d % step}")) for d in range(1, 10)))
    return alt(Literal("0"), seq(optional(Literal("-")), first)), rules


def _first_integer(low: Bound) -> int:
    """The least integer above a lower bound."""
    floor = int(low.value.to_integral_value(rounding="ROUND_FLOOR"))
    return floor if floor == low.value and not low.excluded else floor + 1


def _naturals(least: int, most: int | None) -> Expr:
    """Integers from `least` (0 or more) to `most`."""
    if most is None:
        if least == 0:
            return natural()
        digits = str(least)
        longer = seq(NON_ZERO, Repeat(DIGIT, len(digits)))
        return alt(_same_length(digits, "9" * len(digits)), longer)
    if most < least:
        return NOTHING
    options: list[Expr] = []
    for length in range(len(str(least)), len(str(most)) + 1):
        first = str(least) if length == len(str(least)) else "1" + "0" * (length - 1)
        last = str(most) if length == len(str(most)) else "9" * length
        options.append(_same_length(first, last))
    return alt(*options)


def _same_length(low: str, high: str) -> Expr:
    """Digit strings between two of the same length, as numbers."""
    if not low:
        return EMPTY
    if not low.strip("0") and not high.strip("9"):
        return Repeat(DIGIT, len(low), len(low))  # digit by digit the alternatives would double with each
    if low[0] == high[0]:
        return seq(Literal(low[0]), _same_length(low[1:], high[1:]))
    rest = len(low) - 1
    options: list[Expr] = [seq(Literal(low[0]), _same_length(low[1:], "9" * rest))]
    if ord(high[0]) - ord(low[0]) > 1:
        options.append(seq(_digits(int(low[0]) + 1, int(high[0]) - 1), Repeat(DIGIT, rest, rest)))
    options.append(seq(Literal(high[0]), _same_length("0" * rest, high[1:])))
    return alt(*options)


def _magnitudes(low: Bound, high: Bound | None) -> Expr:
    """Numbers from 0 on between bounds."""
    if high is not None and high.value < low.value:
        return NOTHING
    low_int, low_digits = _split(low.value)
    low_end = _End(low_digits, low.excluded)
    if high is None:
        options = [_with_fraction(_naturals(low_int, low_int), low_end, None)]
        return alt(*options, seq(_naturals(low_int + 1, None), _any_fraction()))
    high_int, high_digits = _split(high.value)
    high_end = _End(high_digits, high.excluded)
    if low_int == high_int:
        return _with_fraction(_naturals(low_int, low_int), low_end, high_end)
    return alt(
        _with_fraction(_naturals(low_int, low_int), low_end, None),
        seq(_naturals(low_int + 1, high_int - 1), _any_fraction()),
        _with_fraction(_naturals(high_int, high_int), None, high_end),
    )


@dataclass(frozen=True, slots=True)
class _End:
    """Digits of a bound after the point, without zeros at their end."""

    digits: str
    excluded: bool

    def rest(self) -> _End:
        return _End(self.digits[1:], self.excluded)


def _split(value: Decimal) -> tuple[int, str]:
    whole, _, fraction = f"{value:f}".partition(".")
    return int(whole), fraction.rstrip("0")


def _any_fraction() -> Expr:
    return optional(seq(Literal("."), Repeat(DIGIT, 1, _FRACTION_DIGITS)))


def _with_fraction(whole: Expr, low: _End | None, high: _End | None) -> Expr:
    room = max(_FRACTION_DIGITS, *(len(end.digits) + 1 for end in (low, high) if end is not None))
    # Ending right behind the point is no number: the first digit is asked for by itself.
    bare = whole if _may_end(low, high) else NOTHING
    return alt(bare, seq(whole, Literal("."), _next_digit(low, high, room)))


def _may_end(low: _End | None, high: _End | None) -> bool:
    """Whether the digits so far, being those of the bounds, may be all."""
    above = low is None or (not low.digits and not low.excluded)
    below = high is None or bool(high.digits) or not high.excluded
    return above and below


def _next_digit(low: _End | None, high: _End | None, room: int) -> Expr:
    """Between one digit and `room` of them, given that those before are equal to the bounds that are still there."""
    if room == 0:
        return NOTHING
    if low is not None and not low.digits and not low.excluded:
        low = None
    least = int(low.digits[:1] or "0") if low is not None else 0
    # Beyond its digits an upper bound goes on with zeros.
    most = int(high.digits[:1] or "0") if high is not None else 9
    options: list[Expr] = []
    for digit in sorted({least, most}):
        if not least <= digit <= most:
            continue
        inner_low = low.rest() if low is not None and digit == least else None
        inner_high = high.rest() if high is not None and digit == most else None
        if inner_low is None and inner_high is None:
            continue  # it is one of the free ones below
        ends: list[Expr] = [EMPTY] if _may_end(inner_low, inner_high) else []
        more = _next_digit(inner_low, inner_high, room - 1)
        options.append(seq(Literal(str(digit)), alt(*ends, more)))
    first = least + (low is not None)
    last = most - (high is not None)
    if first <= last:
        options.append(seq(_digits(first, last), Repeat(DIGIT, 0, room - 1)))
    return alt(*options)


def _digits(first: int, last: int) -> OneOf:
    return OneOf(((0x30 + first, 0x30 + last),))
