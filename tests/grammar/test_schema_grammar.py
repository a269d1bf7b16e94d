"""What a schema's grammar allows holds for the schema, and what does not hold is not allowed."""

from __future__ import annotations

import itertools
import json
import random
import re
from typing import Any

import jsonschema
import pytest

from bough.grammar.formats import FORMATS
from bough.grammar.schema_check import SchemaError
from bough.grammar.schema_grammar import schema_grammar
from tests.grammar.matching import Language
from tests.grammar.validation import formats

TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"v": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
            "required": ["v"],
        }
    },
}
AB = {"type": "object", "properties": {"a": {"type": "integer"}, "ab": True}, "additionalProperties": {"type": "null"}}
KINDS = {
    "oneOf": [
        {"type": "object", "properties": {"k": {"const": "a"}, "v": {"type": "integer"}}, "required": ["k", "v"]},
        {"type": "object", "properties": {"k": {"enum": ["b", "c"]}}, "required": ["k"]},
    ]
}
CASES: list[tuple[Any, list[str], list[str]]] = [
    (True, ["1", '{"a": [null]}', '"x"'], ["", "nul", "[1,]", "01", "1.", ".5", "+1", '"\x01"', '"\\ud83d\\ude00"']),
    ({"type": ["string", "null"], "maxLength": 1}, ['"é"', "null", '"\\n"'], ['"ab"', "1"]),
    ({"type": "string", "minLength": 2}, ['"😀é"'], ['"😀"', '"\x01\x02"']),
    ({"minLength": 2}, ['"ab"'], ['"a"']),
    ({"type": "integer"}, ["-12", "0"], ["1.5", "00", "-"]),
    (
        {"type": "number", "exclusiveMinimum": 0.5, "maximum": 1.25},
        ["0.51", "1.25", "1.250", "1"],
        ["0.5", "1.251", "0"],
    ),
    ({"type": "integer", "minimum": 0.5, "exclusiveMaximum": 3}, ["1", "2"], ["0", "3"]),
    ({"type": "integer", "multipleOf": 7}, ["0", "-14", "700"], ["8", "-1"]),
    ({"type": "integer", "multipleOf": 7, "minimum": -20, "maximum": 20}, ["-14", "0", "14"], ["-21", "21", "1"]),
    ({"enum": ["é\n", 1.5, None, {"a": [1]}]}, ['"é\\n"', "1.5", "null", '{"a":[1]}'], ['"é"', "1"]),
    ({"enum": ["a", 1, 2.0], "type": "integer"}, ["1", "2.0"], ['"a"']),
    ({"const": "x", "enum": ["x", "y"]}, ['"x"'], ['"y"']),
    ({"type": "string", "pattern": "^a.*$"}, ['"a"', '"a\\"é"'], ['"ba"', '"a""', '"a\\n"']),
    ({"type": "string", "pattern": "b+"}, ['"abc"', '"\\n\\"b"'], ['"a"']),
    ({"type": "string", "pattern": "^[^a-z]{2}$|^x$"}, ['"AA"', '"x"', '"\\\\\\""'], ['"ab"', '"X"', '"A"']),
    ({"type": "string", "pattern": r"^\w\d\s(?:a|b)*?\.\x41\u00e9$"}, ['"_1 ab.Aé"'], ['"_1ab.Aé"']),
    ({"type": "string", "pattern": r"^[^\s,]+$"}, ['"é中"'], ['"a b"', '"a,"', '"a\u3000"']),
    ({"type": "string", "pattern": r"^[\s\S]$"}, ['"é"', '"\\n"'], ['""']),
    ({"type": "string", "format": "date"}, ['"2024-02-28"', '"1999-12-31"'], ['"2023-02-29"', '"2023-13-01"']),
    ({"type": "string", "format": "date-time"}, ['"2024-02-28T23:59:59.5Z"'], ['"2024-02-28 23:59:59Z"']),
    (
        {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3},
        ["[1,2]", "[1, 2, 3]"],
        ["[1]", "[1,2,3,4]"],
    ),
    ({"type": "array", "items": False}, ["[]"], ["[1]"]),
    (
        {
            "prefixItems": [{"type": "integer"}, {"type": "null"}],
            "items": {"type": "boolean"},
            "minItems": 1,
            "maxItems": 3,
        },
        ["[1]", "[1,null]", "[1,null,true]"],
        ["[]", "[1,true]", "[1,null,true,true]"],
    ),
    ({"type": "array", "prefixItems": [{"type": "integer"}], "minItems": 3}, ['[1,"a",null]'], ["[1,2]"]),
    ({"type": "array", "prefixItems": [True, True], "maxItems": 1}, ["[1]", "[]"], ["[1,2]"]),
    (
        AB,
        ["{}", '{"a": 1}', '{"a": 1, "b": null, "abc": null}'],
        ['{"a":null}', '{"a":1,"a":null}', '{"\\u0061":null}'],
    ),
    ({"type": "object", "required": ["z"]}, ['{"z": 1}', '{"z": 1, "y": 2}'], ["{}"]),
    ({"properties": {"a": {"type": "null"}}, "required": ["b"]}, ['{"a":null,"b":1}', '{"b":1}'], ['{"a":null}']),
    ({"type": "object", "properties": {"a": False, "b": True}}, ["{}", '{"b":1}'], ['{"a":1}']),
    (
        {"properties": {"a": {}, "b": {}, "c": {}}, "minProperties": 2, "maxProperties": 2},
        ['{"a":1,"c":2}'],
        ['{"a":1}', '{"a":1,"b":1,"c":1}'],
    ),
    (
        {"type": "object", "additionalProperties": True, "minProperties": 1, "maxProperties": 2},
        ['{"a":1}'],
        ["{}", '{"a":1,"b":1,"c":1}'],
    ),
    (
        {"type": "object", "patternProperties": {"^x-": {"type": "null"}}, "additionalProperties": False},
        ["{}", '{"x-a":null}'],
        ['{"b":null}', '{"x-a":1}'],
    ),
    ({"type": "object", "propertyNames": {"pattern": "^a+$"}}, ["{}", '{"aa":1}'], ['{"b":1}']),
    ({"type": "string", "pattern": r"^\x01+$"}, ['"\\u0001"'], ['"\x01"']),
    (TREE, ['{"v":1}', '{"v":1,"kids":[{"v":2,"kids":[]}]}'], ['{"v":1,"kids":[{}]}']),
    ({"$ref": "#/$defs/a", "minimum": 3, "$defs": {"a": {"type": "integer"}}}, ["3"], ["2"]),
    ({"$ref": "#/$defs/a~1b%25", "$defs": {"a/b%": {"const": 1}}}, ["1"], ["2"]),
    ({"allOf": [{"type": "integer"}, {"minimum": 3}], "maximum": 4}, ["3", "4"], ["2", "5"]),
    (
        {"allOf": [{"properties": {"a": {"type": "null"}}, "required": ["a"]}, {"properties": {"b": True}}]},
        ['{"a":null,"b":1}'],
        ["{}"],
    ),
    (
        {"allOf": [{"properties": {"a": {"minimum": 2}}}, {"properties": {"a": {"maximum": 3}}}], "type": "object"},
        ['{"a":2}'],
        ['{"a":1}', '{"a":4}'],
    ),
    (
        {
            "allOf": [{"properties": {"a": True}, "additionalProperties": False}, {"properties": {"b": True}}],
            "type": "object",
        },
        ['{"a":1}'],
        ['{"b":1}'],
    ),
    ({"anyOf": [{"type": "integer"}, {"type": "string"}], "type": "integer"}, ["1"], ['"a"']),
    ({"anyOf": [{"minimum": 5}, {"maximum": 1}], "type": "integer"}, ["5", "1"], ["3"]),
    ({"oneOf": [{"type": "integer", "maximum": 1}, {"type": "number", "minimum": 2}]}, ["1", "2"], ["1.5"]),
    (KINDS, ['{"k":"a","v":1}', '{"k":"c"}'], ['{"k":"a"}', '{"k":"d"}']),
    (
        {**KINDS, "discriminator": {"propertyName": "k", "mapping": {}}},
        ['{"k":"c"}'],
        ['{"k":"d"}'],
    ),
    (
        {
            "$defs": {"L": {"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#/$defs/L"}}]}},
            "$ref": "#/$defs/L",
        },
        ["null", "[[null],[]]"],
        ["[1]"],
    ),
    (
        {"title": "t", "x-order": 1, "description": "d", "default": 2, "type": "null", "deprecated": True},
        ["null"],
        ["1"],
    ),
]


@pytest.mark.parametrize(("schema", "good", "bad"), CASES, ids=lambda value: json.dumps(value)[:50])
def test_what_holds_is_allowed_and_what_does_not_is_not(schema: Any, good: list[str], bad: list[str]) -> None:
    language = Language(schema_grammar(json.dumps(schema)))
    for text in good:
        assert text in language
        jsonschema.validate(json.loads(text), schema, jsonschema.Draft202012Validator)
    assert [text for text in bad if text in language] == []


@pytest.mark.parametrize(
    ("least", "most"), [(-(2**31), 2**31 - 1), (-(2**63), 2**63 - 1), (0, 2**64 - 1), (1, 10**9), (-(10**17), 7)]
)
def test_bounds_of_machine_integers_are_kept_with_few_rules(least: int, most: int) -> None:
    for bounds in ({"minimum": least, "maximum": most}, {"minimum": least}, {"maximum": most}):
        grammar = schema_grammar(json.dumps({"type": "integer", **bounds}))
        assert grammar.count("::=") < 100
        language = Language(grammar)
        for value in {bound + step for bound in (least, most, 0) for step in (-1000, -1, 0, 1, 1000)}:
            holds = bounds.get("minimum", value) <= value <= bounds.get("maximum", value)
            assert (str(value) in language) == holds, (bounds, value)


def test_a_whole_number_that_no_double_holds_is_an_integer() -> None:
    language = Language(schema_grammar(json.dumps({"enum": [10**400, "a"], "type": "integer"})))
    assert str(10**400) in language and '"a"' not in language


@pytest.mark.parametrize(
    ("least", "most"),
    [
        (0, 3),
        (2, 3),
        (0, 128),
        (5, None),
        (130, None),
        (0, 129),
        (3, 200),
        (140, 300),
        (192, 192),
        (82, 130),
        (129, 130),
    ],
)
def test_lengths_are_those_in_characters(least: int, most: int | None) -> None:
    schema = {"type": "string", "minLength": least} | ({} if most is None else {"maxLength": most})
    language = Language(schema_grammar(json.dumps(schema)))
    for count in (0, 1, 2, 3, 4, 5, 63, 64, 65, 128, 129, 130, 140, 191, 192, 193, 200, 201, 300, 301):
        holds = least <= count and (most is None or count <= most)
        for char in ("a", "é", "😀", "\\n", '\\"'):
            assert (f'"{char * count}"' in language) == holds, (char, count)


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"properties": {"age": {"not": {}}}}, r"^properties\.age: not is not supported$"),
        ({"items": {"anyOf": [True, {"if": {}}]}}, r"^items\.anyOf\.1: if is not supported$"),
        ({"minLenght": 3}, r"^minLenght is no keyword that is supported$"),
        ({"type": "array", "uniqueItems": True}, "^uniqueItems is not supported$"),
        ({"type": "number", "multipleOf": 0.5}, r"multipleOf is not supported for 0\.5"),
        ({"type": "integer", "multipleOf": 1000}, "multipleOf: 1000 is above 100"),
        ({"type": "string", "format": "idn-email"}, "format: 'idn-email' is not supported; supported are date, "),
        (
            {"type": "string", "pattern": "^[a-z]*$", "maxLength": 2000},
            "^pattern beside maxLength: takes more than ",
        ),
        (
            {"format": "uri", "minLength": 99, "maxLength": 2083},
            "^format beside minLength and maxLength: takes ",
        ),
        ({"pattern": "a", "format": "date"}, "cannot be satisfied"),
        ({"type": "string", "format": "date", "maxLength": 2}, "cannot be satisfied"),
        ({"type": "string", "pattern": "(?=a)"}, r"pattern: at character 2: groups other than"),
        ({"type": "string", "pattern": r"\bA"}, r"pattern: at character 2: \\b is not supported"),
        ({"type": "string", "pattern": "^(a|b)*a(a|b){12}$"}, "pattern: takes more than 4096 states"),
        ({"type": "string", "pattern": "^(a|b)*a(a|b){9}$"}, "pattern: takes more than 512 states"),
        ({"type": "string", "pattern": "^(.{0,30}){0,30}x$"}, "pattern: has too many ways through its counts"),
        ({"type": "string", "pattern": "^(.{9000}){9000}$"}, "pattern: takes more than 50000 states"),
        ({"type": "string", "pattern": "a{99999}"}, "pattern: .* a count is above 10000"),
        ({"enum": ["a"], "minLength": 1}, "minLength is not supported beside enum"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf: branches 0 and 1 may both hold"),
        ({"oneOf": [{"properties": {"a": True}}, {"type": "string"}]}, "oneOf: branches 0 and 1 may both hold"),
        ({"allOf": [{"pattern": "a"}, {"pattern": "b"}]}, "pattern is not supported beside another"),
        ({"patternProperties": {"a": True}, "properties": {"b": True}}, "patternProperties is not supported beside"),
        ({"type": "object", "minProperties": 3}, "minProperties beyond one more"),
        ({"propertyNames": {"maxLength": 1}, "required": ["a"]}, "propertyNames is not supported beside"),
        ({"$ref": "https://example.com/a"}, "is no schema of this document"),
        ({"$ref": "#/definitions/a", "definitions": {"b": True}}, "'#/definitions/a' is no schema"),
        ({"$ref": "#/default", "default": {"type": "null"}}, "'#/default' is no schema"),
        ({"$ref": "#"}, "leads to itself"),
        ({"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "leads to itself"),
        ({"allOf": [{"$ref": "#"}, {"type": "null"}]}, "leads to itself"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$id": "x", "type": "null"}}}, r"\$ref is not supported where"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "prefixItems": [True]}, "prefixItems is not of"),
        ({"$schema": "http://json-schema.org/draft-04/schema#"}, r"\$schema must be one of"),
        ({"items": [True]}, "items as a list is not supported"),
        ({"type": "foo"}, "type must be one or a list of null"),
        ({"properties": {"a": 1}}, r"^properties\.a: must be a schema"),
        ({"enum": []}, "enum must be a list that is not empty"),
        ({"minimum": 3, "maximum": 2}, "minimum is 3, which is more than maximum, 2"),
        ({"minimum": 3, "exclusiveMaximum": 3}, "no number is above the lower bound 3"),
        ({"minItems": 3, "maxItems": 2}, "minItems is 3, which is more than maxItems, 2"),
        ({"required": ["a"], "additionalProperties": False}, "required: 'a' is forbidden by additionalProperties"),
        ({"required": ["a"], "properties": {"a": False}}, "required: 'a' is forbidden by properties"),
        ({"required": ["a", "b"], "maxProperties": 1}, "required: has 2 names, more than maxProperties, 1"),
        ({"allOf": [{"minimum": 3}, {"maximum": 2}]}, "cannot be satisfied"),
        ({"properties": {"n": {"$ref": "#"}}, "required": ["n"]}, "cannot be satisfied"),
        (False, "cannot be satisfied"),
        ({"type": "string", "maxLength": 100_001}, "maxLength is 100001; at most 100000"),
        ({"type": "number", "maximum": 1e300}, "a bound of numbers beyond 1e"),
        ([1], r"must be an object or a boolean, got \[1\]"),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_what_is_not_enforced_is_refused_by_name(schema: Any, says: str) -> None:
    with pytest.raises(SchemaError, match=says):
        schema_grammar(json.dumps(schema))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not valid JSON: .*column 2"),
        ("[" * 100_000, "is nested too deeply; at most 64 levels"),
        ('{"minimum": NaN}', "NaN is no JSON"),
        ('{"minimum": 1e999}', "beyond what a double holds"),
        ('{"const": "\\ud800"}', "half of a surrogate pair"),
        ('{"items":' * 65 + "true" + "}" * 65, "is nested too deeply; at most 64 levels"),
        (json.dumps({"properties": {f"p{i}": {"type": "null"} for i in range(10_001)}}), "has more than 10000 schemas"),
        (json.dumps({"enum": list(range(10_001))}), "enum has 10001 values; at most 10000"),
        (
            json.dumps({"allOf": [{"anyOf": [{"minimum": i} for i in range(20)]}] * 3}),
            "makes more than 256 alternatives",
        ),
    ],
    ids=["syntax", "json depth", "nan", "inf", "surrogate", "depth", "schemas", "enum", "alternatives"],
)
def test_what_is_beyond_a_limit_is_refused_with_the_limit(text: str, says: str) -> None:
    with pytest.raises(SchemaError, match=says):
        schema_grammar(text)


def test_a_long_chain_of_references_needs_no_stack() -> None:
    schema = {"$ref": "#/$defs/d0", "$defs": {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(2000)}}
    schema["$defs"]["d2000"] = {"type": "null"}  # type: ignore[index]
    assert "null" in Language(schema_grammar(json.dumps(schema)))


@pytest.mark.parametrize("pattern", ["a+", "^a|b$", "^[^a]*$", '^(a\n|"b)+$', "^.{2,3}$", "^(é|ab){1,2}x?"])
@pytest.mark.parametrize(("least", "most"), [(0, 2), (2, 3), (3, None), (1, 4)])
def test_a_pattern_beside_lengths_allows_what_holds_for_both(pattern: str, least: int, most: int | None) -> None:
    schema = {"type": "string", "pattern": pattern, "minLength": least} | ({} if most is None else {"maxLength": most})
    # In Python's dialect `$` is before a line break at the end, too.
    strict = {**schema, "pattern": pattern.replace("$", r"\Z")}
    language, validator = Language(schema_grammar(json.dumps(schema))), jsonschema.Draft202012Validator(strict)
    num_valid = 0
    for count in range(6):
        for text in map("".join, itertools.product('ab\n"éx'[: 4 if count > 3 else 6], repeat=count)):
            holds = validator.is_valid(text)
            num_valid += holds
            assert (json.dumps(text, ensure_ascii=False) in language) == holds, text
    assert num_valid > 0


@pytest.mark.parametrize("most", [20, 33, 60, 85, 100, 121, 254, 2083])
@pytest.mark.parametrize("name", ["uri", "email", "hostname", "ipv4", "date-time", "duration"])
def test_a_format_beside_a_length_holds_for_both(name: str, most: int) -> None:
    schema = {"type": "string", "format": name, "minLength": 1, "maxLength": most}
    language, source = Language(schema_grammar(json.dumps(schema))), random.Random(most)
    texts = [json.loads(language.sample(source)) for _ in range(20)]
    for text in texts:
        jsonschema.validate(text, schema, jsonschema.Draft202012Validator, format_checker=formats)
        assert re.fullmatch(FORMATS[name], text)
    assert len(set(texts)) > 10


def test_the_url_of_pydantic_may_be_long_and_no_longer_than_it_says() -> None:
    schema = {"type": "string", "format": "uri", "minLength": 1, "maxLength": 2083}
    language = Language(schema_grammar(json.dumps(schema)))
    path, query = "p" * 128, "q" * 128
    assert f'"https://www.example.com:8000/{path}?{query}"' in language
    assert '"http://a.bc"' in language and '"http://a.bc/d/e.html?f=g"' in language
    assert '""' not in language and '"ftp://a.bc"' not in language and f'"http://a.bc/{path}p"' not in language


def test_a_format_beside_a_pattern_holds_for_both() -> None:
    schema = {"type": "string", "format": "email", "pattern": "@example[.]com$", "maxLength": 18}
    language = Language(schema_grammar(json.dumps(schema)))
    assert '"a@example.com"' in language and '"abcdef@example.com"' in language
    assert '"abcdefg@example.com"' not in language and '"a@example.org"' not in language
    assert '"a b@example.com"' not in language


def test_names_of_properties_may_have_a_pattern_and_a_length() -> None:
    schema = {"type": "object", "propertyNames": {"pattern": "^a+$", "maxLength": 2}}
    language = Language(schema_grammar(json.dumps(schema)))
    assert '{"a":1,"aa":2}' in language and '{"aaa":1}' not in language and '{"b":1}' not in language
