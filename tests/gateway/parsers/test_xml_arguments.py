"""Texts of arguments become values of the types that the schema has."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bough.gateway.parsers.xml_arguments import XmlArguments

NODE: dict[str, Any] = {"properties": {"next": {"$ref": "#/$defs/Node"}}, "type": "object"}
LOOP: dict[str, Any] = {"anyOf": [{"$ref": "#/$defs/Loop"}, {"$ref": "#/$defs/Loop"}]}


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "string"}, "12", "12"),
        ({"type": "string"}, "null", "null"),
        ({"type": "integer"}, " 12 ", 12),
        ({"type": "integer"}, "twelve", "twelve"),
        ({"type": "number"}, "3", 3),
        ({"type": "boolean"}, "True", True),
        ({"type": "boolean"}, "false", False),
        ({"type": "array"}, '["a", 1]', ["a", 1]),
        ({"type": "array"}, '["a", 1', '["a", 1'),
        ({"type": "object"}, '{"a": {"b": null}}', {"a": {"b": None}}),
        ({"type": ["string", "null"]}, "null", None),
        ({"type": ["string", "null"]}, "None", None),
        ({"type": ["string", "integer"]}, "12", "12"),
        ({"type": ["array", "string"]}, "[1]", [1]),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "12", 12),
        ({"enum": ["1", "2"]}, "1", "1"),
        ({"enum": [1, 2]}, "1", 1),
        ({"const": "7"}, "7", "7"),
        ({"$ref": "#/$defs/Node"}, "{}", {}),
        ({"$ref": "#/$defs/Loop"}, "1", 1),
        ({"$ref": "#/nowhere"}, "1", 1),
        ({}, "12", 12),
        ({}, "plain", "plain"),
        ({}, '"quoted"', '"quoted"'),
        (True, "[1]", [1]),
        ({"type": "number"}, "NaN", "NaN"),
        ({}, "[" * 20000, "[" * 20000),
    ],
)
def test_a_text_becomes_a_value(schema: Any, text: str, value: object) -> None:
    arguments = XmlArguments({"properties": {"key": schema}, "$defs": {"Node": NODE, "Loop": LOOP}})
    written = arguments.key("key") + arguments.value("key", text) + arguments.end()
    assert json.loads(written) == {"key": value}


def test_a_schema_that_refers_to_itself_in_many_ways_is_followed_once() -> None:
    many = {"anyOf": [{"$ref": "#/$defs/Many"}] * 200 + [{"type": "integer"}]}
    arguments = XmlArguments({"properties": {"key": many}, "$defs": {"Many": many}})
    assert arguments.value("key", "1") == "1"


def test_only_what_can_be_nothing_but_a_string_is_given_on_while_it_comes() -> None:
    properties = {"a": {"type": "string"}, "b": {"enum": ["x", "y"]}, "c": {"type": ["string", "null"]}, "d": {}}
    arguments = XmlArguments({"properties": properties, "additionalProperties": {"type": "string"}})
    assert [arguments.is_text(key) for key in "abcde"] == [True, True, False, False, True]


def test_an_object_without_pairs_is_empty() -> None:
    assert XmlArguments(True).end() == "{}"
    arguments = XmlArguments(True)
    written = arguments.key('a"') + arguments.value('a"', "1") + arguments.key("b") + arguments.value("b", "x")
    assert json.loads(written + arguments.end()) == {'a"': 1, "b": "x"}
