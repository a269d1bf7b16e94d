"""What the output must follow: one constraint from all the fields that may ask for one, in either API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from bough.common.errors import InvalidRequestError
from bough.common.sampling import GrammarKind
from bough.gateway.domain import Constraint
from bough.gateway.errors import refuse
from bough.gateway.schema import GenerationBody, ResponseFormat, TriggeredStructures

_MAX_WHITESPACE = 16
"""Characters of white space in a row within JSON of a structural tag; with no bound a model may write nothing else."""

_STRUCTURAL_TAG = 'an object: {"type": "structural_tag", "format": …}, or one with structures and triggers'


def body_constraint(body: GenerationBody) -> Constraint | None:
    """The constraint of a body. InvalidRequestError where something is wrong with it, or there are two."""
    found = list(_asked(body))
    if len(found) > 1:
        raise two_constraints(found[0].field, found[1].field)
    return found[0] if found else None


def two_constraints(first: str, second: str) -> InvalidRequestError:
    """The error for two constraints on one output."""
    return InvalidRequestError(
        f"{second}: is given together with {first}, accepted is one constraint of the output", field=second
    )


def structural_tag(value: dict[str, Any] | str, field: str) -> Constraint:
    """A structural tag in either of its forms, as an object or as JSON text."""
    if isinstance(value, str):
        value = _parsed(value, field, _STRUCTURAL_TAG)
    if value.get("type", "structural_tag") != "structural_tag":
        raise refuse(f"{field}.type", value["type"], '"structural_tag"')
    form = value.get("format")
    if form is None and ("structures" in value or "triggers" in value):
        form = _triggered(_older(value, field))
    if not isinstance(form, dict):
        raise refuse(f"{field}.format", form, "an object: a format of structural tags")
    text = _dump({"type": "structural_tag", "format": form}, field)
    return Constraint(kind=GrammarKind.STRUCTURAL_TAG, text=text, field=field)


def one_of(tools: dict[str, Any], constraint: Constraint) -> Constraint:
    """Tool calls or what a constraint wants, as a structural tag.

    Args:
        tools: A format of structural tags: at least one call and no other text.
        constraint: What the output follows where it calls nothing.
    """
    form = {"type": "or", "elements": [tools, _as_format(constraint)]}
    text = _dump({"type": "structural_tag", "format": form}, constraint.field)
    return Constraint(kind=GrammarKind.STRUCTURAL_TAG, text=text, field=constraint.field)


def behind(role: str, head: str, constraint: Constraint) -> Constraint:
    """A constraint on what follows a header, for models that put one before an answer.

    Args:
        role: Comes before the header where the answer is not the first message.
        head: The header.
        constraint: What the answer follows.
    """
    texts: list[dict[str, Any]] = [{"type": "const_string", "value": text} for text in (role, head)]
    elements = [{"type": "optional", "content": texts[0]}, texts[1], _as_format(constraint)]
    tag = {"type": "structural_tag", "format": {"type": "sequence", "elements": elements}}
    return Constraint(kind=GrammarKind.STRUCTURAL_TAG, text=_dump(tag, constraint.field), field=constraint.field)


def _as_format(constraint: Constraint) -> dict[str, Any]:
    text = constraint.text
    match constraint.kind:
        case GrammarKind.JSON_OBJECT:
            return _json_format({"type": "object"})
        case GrammarKind.JSON_SCHEMA:
            return _json_format(json.loads(text))
        case GrammarKind.REGEX:
            return {"type": "regex", "pattern": text}
        case GrammarKind.EBNF:
            return {"type": "grammar", "grammar": text}
        case GrammarKind.CHOICE:
            choices = [{"type": "const_string", "value": choice} for choice in json.loads(text)]
            return {"type": "or", "elements": choices}
        case GrammarKind.STRUCTURAL_TAG:
            form: dict[str, Any] = json.loads(text)["format"]
            return form


def _json_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": schema, "max_whitespace_cnt": _MAX_WHITESPACE}


def _asked(body: GenerationBody) -> Iterator[Constraint]:
    """A constraint for each field that asks for one."""
    if body.response_format is not None:
        yield from _response_format(body.response_format)
    if body.structured_outputs is not None:
        yield from _fields(body.structured_outputs.asked(), "structured_outputs.")
    yield from _fields(body.constraints(), "")


def _fields(values: dict[str, Any], prefix: str) -> Iterator[Constraint]:
    for name, value in values.items():
        if value is not None and value is not False:
            yield _of_field(name.removeprefix("guided_"), value, prefix + name)


def _of_field(what: str, value: Any, field: str) -> Constraint:
    if what == "json":
        schema = _parsed(value, field, "a JSON schema") if isinstance(value, str) else value
        return _json_schema(schema, field)
    if what == "structural_tag":
        return structural_tag(value, field)
    if what == "choice":
        if not value:
            raise refuse(field, value, "a list of at least one string")
        return Constraint(kind=GrammarKind.CHOICE, text=json.dumps(value, ensure_ascii=False), field=field)
    if what == "json_object":
        return Constraint(kind=GrammarKind.JSON_OBJECT, text="", field=field)
    kind = GrammarKind.REGEX if what == "regex" else GrammarKind.EBNF
    return Constraint(kind=kind, text=value, field=field)


def _response_format(wanted: ResponseFormat) -> Iterator[Constraint]:
    field = "response_format"
    if wanted.type == "json_object":
        yield Constraint(kind=GrammarKind.JSON_OBJECT, text="", field=field)
    elif wanted.type == "json_schema":
        schema = None if wanted.json_schema is None else wanted.json_schema.json_schema
        if not isinstance(schema, dict):
            raise refuse(f"{field}.json_schema.schema", schema, "an object: a JSON schema")
        yield _json_schema(schema, field)
    elif wanted.type == "structural_tag":
        given = {"format": wanted.format, "structures": wanted.structures, "triggers": wanted.triggers}
        yield structural_tag({name: value for name, value in given.items() if value is not None}, field)


def _json_schema(schema: Any, field: str) -> Constraint:
    return Constraint(kind=GrammarKind.JSON_SCHEMA, text=_dump(schema, field), field=field)


def _older(value: dict[str, Any], field: str) -> TriggeredStructures:
    try:
        return TriggeredStructures.model_validate({name: value.get(name) for name in ("structures", "triggers")})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        raise refuse(f"{field}{path}", first["input"], _STRUCTURAL_TAG) from None


def _triggered(older: TriggeredStructures) -> dict[str, Any]:
    """The older form of structural tags in the newer one."""
    tags = [
        {
            "type": "tag",
            "begin": structure.begin,
            "content": _json_format(structure.json_schema),
            "end": structure.end,
        }
        for structure in older.structures
    ]
    return {"type": "triggered_tags", "triggers": older.triggers, "tags": tags}


def _parsed(text: str, field: str, accepted: str) -> dict[str, Any]:
    try:
        value = from_json(text, allow_inf_nan=False)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise refuse(field, text, accepted)
    return value


def _dump(value: Any, field: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise InvalidRequestError(f"{field}: holds a number that JSON cannot say", field=field) from None
