"""What a call's text must look like, and how a value is read from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bough.lang.errors import ExpressionError, OutputError

if TYPE_CHECKING:
    from pydantic import BaseModel

ConstraintKind = Literal["regex", "json_schema", "ebnf"]
Scalar = type[int] | type[float] | type[bool] | type[str]

# Digits are bounded: without an end in sight a model may write them until its tokens are used up.
_PATTERNS: dict[type, str] = {
    int: r"-?[0-9]{1,18}",
    float: r"-?[0-9]{1,15}(\.[0-9]{1,15})?",
    bool: r"(True|False)",
    str: r'"[^"\\\r\n\t]*"',
}

EXAMPLES = {_PATTERNS[int]: "0", _PATTERNS[float]: "0.0", _PATTERNS[bool]: "True", _PATTERNS[str]: '"text"'}
"""A text for the pattern of each type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """What the whole text of a call must match."""

    kind: ConstraintKind
    source: str
    """A regular expression, a grammar, or a JSON schema as JSON text."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Makes a variable's value of the model's text: the text itself where neither is set."""

    dtype: Scalar | None = None
    schema: type[BaseModel] | None = None

    def read(self, text: str, finish_reason: str) -> Any:
        """The value. OutputError where the text is none, as one that was cut off may be."""
        try:
            if self.schema is not None:
                return self.schema.model_validate_json(text)
            return text if self.dtype is None else _scalar(self.dtype, text.strip())
        except ValueError as error:
            wanted = self.schema or self.dtype
            assert wanted is not None
            message = f"{wanted.__name__} was asked for: {str(error).splitlines()[0]}"
            raise OutputError(message, text=text, finish_reason=finish_reason) from None


def constraint_of(arguments: Mapping[str, Any]) -> tuple[Constraint | None, Reader]:
    """The constraint among the arguments of a `gen`, and how its value is read.

    Args:
        arguments: Those of regex, json_schema, ebnf, schema and dtype that are given.

    Raises:
        ExpressionError: There are two, or one of a kind that is not known.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    if len(given) > 1:
        first, second = list(given)[:2]
        raise ExpressionError(f"gen: {first} and {second} are both given, accepted is one constraint", field=second)
    for name, value in given.items():
        if name == "dtype":
            if value not in _PATTERNS:
                raise ExpressionError(f"dtype: got {value!r}, accepted are int, float, bool and str", field=name)
            return Constraint(kind="regex", source=_PATTERNS[value]), Reader(dtype=value)
        if name == "schema":
            return Constraint(kind="json_schema", source=_schema_of(value)), Reader(schema=value)
        if name == "json_schema":
            source = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            return Constraint(kind="json_schema", source=source), Reader()
        return Constraint(kind="regex" if name == "regex" else "ebnf", source=value), Reader()
    return None, Reader()


def _schema_of(model: type[BaseModel]) -> str:
    if not hasattr(model, "model_json_schema"):
        raise ExpressionError(f"schema: got {model!r}, accepted is a class of pydantic's BaseModel", field="schema")
    return json.dumps(model.model_json_schema(), ensure_ascii=False)


def _scalar(dtype: Scalar, text: str) -> Any:
    if dtype is bool:
        if text not in ("True", "False"):
            raise ValueError("neither True nor False")
        return text == "True"
    if dtype is str:
        value = json.loads(text, strict=False)
        if not isinstance(value, str):
            raise ValueError("not a string in quotes")
        return value
    return dtype(text)
