"""Arguments in XML are held to the whole schema, also to what xgrammar's own converter passes over."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from bough.grammar.schema_check import CLAIMED, SchemaError
from bough.grammar.schema_grammar import schema_value_grammar
from bough.grammar.schema_plain import plain_schema
from bough.grammar.sources import structural_tag
from tests.grammar.matching import Language, tag_language
from tests.grammar.random_schemas import SchemaMaker

AB = {"a": {"type": "integer"}, "b": {"type": "integer"}}
LIST = {
    "L": {
        "type": "object",
        "properties": {"v": {"allOf": [{"type": "integer"}, {"minimum": 3}]}, "n": {"$ref": "#/$defs/L"}},
    }
}


def _xml(**values: object) -> str:
    return "".join(f"<parameter={name}>{value}</parameter>" for name, value in values.items())


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (
            {"properties": {"a": {"allOf": [{"type": "integer"}, {"minimum": 3}]}}, "required": ["a"]},
            [_xml(a=3)],
            [_xml(a=1), _xml(a="x")],
        ),
        (
            {"properties": {"a": {"type": "integer", "anyOf": [{"minimum": 3}, {"maximum": 0}]}}, "required": ["a"]},
            [_xml(a=3), _xml(a=0)],
            [_xml(a=1), _xml(a="x")],
        ),
        ({"properties": {"a": {"type": "integer"}}, "required": ["a", "z"]}, [_xml(a=1, z="x")], [_xml(a=1)]),
        ({"properties": AB, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, [_xml(a=1), _xml(b=1)], [""]),
        (
            {"properties": {"a": {"$ref": "#/$defs/s", "maxLength": 2}}, "$defs": {"s": {"type": "string"}}},
            ["", _xml(a="xy")],
            [_xml(a="xyz")],
        ),
        (
            {"properties": {"l": {"$ref": "#/$defs/L"}}, "$defs": LIST},
            [_xml(l='{"v":3,"n":{}}')],
            [_xml(l='{"n":{"v":1}}')],
        ),
        ({"properties": {"a": {"const": 5}, "b": False}}, ["", _xml(a=5)], [_xml(a=6), _xml(b=1)]),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_arguments_in_xml_hold_for_the_schema(schema: dict[str, Any], good: list[str], bad: list[str]) -> None:
    form = {"type": "json_schema", "json_schema": {"type": "object", **schema}, "style": "qwen_xml"}
    language = tag_language(structural_tag(json.dumps({"type": "structural_tag", "format": form})))
    assert [text for text in good if text not in language] == []
    assert [text for text in bad if text in language] == []


def test_random_schemas_are_written_in_few_words_and_hold_for_themselves() -> None:
    allowed = CLAIMED - {"allOf", "oneOf", "const"}
    for seed in range(1, 150):
        schema = SchemaMaker(seed).document()
        plain = plain_schema(schema)
        jsonschema.Draft202012Validator.check_schema(plain)
        for definition in plain["$defs"].values():
            assert definition.keys() <= allowed
            assert len(definition.keys() & {"anyOf", "$ref", "enum", "type"}) == 1 or definition == {}, definition
        schema_value_grammar(plain)  # nothing in it is refused


def test_an_equal_schema_has_equal_texts() -> None:
    schema = {"type": "object", "properties": AB, "anyOf": [{"required": ["a"]}, {"maxProperties": 0}]}
    texts = ["{}", '{"a":1}', '{"b":1}', '{"a":1,"b":2}', '{"a":"x"}', "[]"]
    one, other = Language(schema_value_grammar(schema)), Language(schema_value_grammar(plain_schema(schema)))
    assert (
        [text in one for text in texts] == [text in other for text in texts] == [True, True, False, True, False, False]
    )


def test_what_cannot_be_joined_is_refused() -> None:
    with pytest.raises(SchemaError, match="pattern is not supported beside another"):
        plain_schema({"properties": {"a": {"allOf": [{"pattern": "a"}, {"pattern": "b"}]}}})


@pytest.mark.parametrize(
    ("string", "good", "bad"),
    [
        ({"format": "date", "maxLength": 99}, "2024-02-28", "2024-02-30"),
        ({"format": "uri", "minLength": 1, "maxLength": 2083}, "https://a.bc/d?e", "a b"),
        ({"pattern": "^[a-z]{2,3}$", "minLength": 2}, "abc", "abcd"),
    ],
    ids=json.dumps,
)
def test_arguments_in_xml_hold_for_lengths_that_patterns_imply(string: Any, good: str, bad: str) -> None:
    schema = {"type": "object", "properties": {"s": {"type": "string", **string}}, "required": ["s"]}
    form = {"type": "json_schema", "json_schema": schema, "style": "qwen_xml"}
    language = tag_language(structural_tag(json.dumps({"type": "structural_tag", "format": form})))
    assert _xml(s=good) in language and _xml(s=bad) not in language


@pytest.mark.parametrize("string", [{"pattern": "^a+$", "maxLength": 3}, {"pattern": "a$", "format": "hostname"}])
def test_arguments_in_xml_with_several_keywords_of_a_string_are_refused(string: Any) -> None:
    with pytest.raises(SchemaError, match=r"^pattern beside (maxLength|format): is not supported where arguments"):
        plain_schema({"type": "string", **string})
