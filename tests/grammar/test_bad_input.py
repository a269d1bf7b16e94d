"""Hostile and wrong sources through the service as it runs: each is an error with a name, and the service goes on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from bough.common.config import Settings
from bough.common.rpc.channel import open_channel
from bough.common.sampling import GrammarKind
from bough.demo import model_dir
from bough.grammar.service import create
from bough.rpc.v1 import grammar_pb2 as pb
from bough.rpc.v1 import grammar_pb2_grpc

MIB = 1 << 20
SCHEMA = r"response_format\.json_schema\.schema: "


def _tag(content: object) -> str:
    tag = {"type": "tag", "begin": "<f>", "content": content, "end": "</f>"}
    return json.dumps({"type": "structural_tag", "format": {"type": "sequence", "elements": [tag]}})


def _wide(count: int, length: int) -> str:
    return json.dumps({"properties": {f"{'p' * length}{i}": {"type": "null"} for i in range(count)}})


BAD = [
    (GrammarKind.JSON_SCHEMA, '{"type": "object",', SCHEMA + "is not valid JSON: .* column 19"),
    (
        GrammarKind.JSON_SCHEMA,
        '{"a":' * 50_000 + "1" + "}" * 50_000,
        SCHEMA + "is nested too deeply; at most 64 levels",
    ),
    (GrammarKind.JSON_SCHEMA, '{"items":' * 100 + "{}" + "}" * 100, "is nested too deeply; at most 64 levels"),
    (GrammarKind.JSON_SCHEMA, " " * MIB + "{}", SCHEMA + "has 1048578 bytes; at most 1048576 are accepted"),
    (GrammarKind.JSON_SCHEMA, _wide(10_500, 60), SCHEMA + "has more than 10000 schemas in it"),
    (
        GrammarKind.JSON_SCHEMA,
        '{"properties": {"age": {"not": {}}}}',
        SCHEMA + r"properties\.age: not is not supported",
    ),
    (GrammarKind.JSON_SCHEMA, '{"minimum": 2, "maximum": 1}', SCHEMA + "minimum is 2, which is more than maximum, 1"),
    (GrammarKind.JSON_SCHEMA, json.dumps({"type": "string", "const": 10**400}), SCHEMA + "cannot be satisfied"),
    (GrammarKind.JSON_SCHEMA, '{"enum": []}', SCHEMA + "enum must be a list that is not empty"),
    (GrammarKind.JSON_SCHEMA, '{"allOf": [{"type": "null"}, {"type": "string"}]}', SCHEMA + "cannot be satisfied"),
    (
        GrammarKind.JSON_SCHEMA,
        '{"type": "string", "pattern": "^(a|b)*a(a|b){12}$"}',
        SCHEMA + "pattern: takes more than 4096 states",
    ),
    (
        GrammarKind.JSON_SCHEMA,
        '{"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#"}}}',
        SCHEMA + r"\$ref leads to itself",
    ),
    (GrammarKind.REGEX, "(" * 5000 + "a" + ")" * 5000, "regex: at character 65: groups are nested deeper than 64"),
    (GrammarKind.REGEX, "(.{0,100}){0,100}x", "regex: has too many ways through its counts"),
    (GrammarKind.REGEX, "a^b", "regex: at character 2: '\\^' is supported only at the ends"),
    (GrammarKind.REGEX, "(a+", "regex: at character 3: a group is not closed"),
    (GrammarKind.EBNF, "root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000, "ebnf: .*limit"),
    (GrammarKind.EBNF, 'rot ::= "a"', 'ebnf: .*root rule with name "root" is not found'),
    (GrammarKind.EBNF, 'root ::= (([a-z ]*)*)* "x"', "ebnf: is too ambiguous: a token takes .* ms to follow"),
    (GrammarKind.EBNF, 'root ::= root "a"', "ebnf: cannot be satisfied: no token of the vocabulary"),
    (GrammarKind.CHOICE, '{"a": 1}', "choice: must be a list of strings"),
    (GrammarKind.CHOICE, "[]", "choice: has 0 strings; 1 to 1024 are accepted"),
    (GrammarKind.CHOICE, json.dumps(["a"] * 1025), "choice: has 1025 strings; 1 to 1024 are accepted"),
    (GrammarKind.CHOICE, '["a", 1]', "choice: must be a list of strings"),
    (GrammarKind.STRUCTURAL_TAG, "[1]", "structural_tag: must be an object"),
    (
        GrammarKind.STRUCTURAL_TAG,
        _tag({"type": "json_schema", "json_schema": {"properties": {"a": {"contains": {}}}}}),
        r"structural_tag: format\.elements\.0\.content\.json_schema: properties\.a: contains is not supported",
    ),
    (
        GrammarKind.STRUCTURAL_TAG,
        _tag({"type": "json_schema", "json_schema": {"const": 1}, "any_order": True}),
        "any_order is not supported",
    ),
    (GrammarKind.STRUCTURAL_TAG, _tag({"type": "regex", "pattern": "a$b"}), r"content\.pattern: at character 2: '\$'"),
    (GrammarKind.STRUCTURAL_TAG, _tag({"type": "foo"}), "structural_tag: .*foo"),
]


@pytest.fixture
async def stub(tmp_path: Path) -> AsyncIterator[grammar_pb2_grpc.GrammarServiceAsyncStub]:
    service = create(Settings(model=model_dir(), run_dir=tmp_path, grammar_cache_dir="off"))
    await service.start()
    async with open_channel(f"unix:{tmp_path}/grammar.sock") as channel:
        yield grammar_pb2_grpc.GrammarServiceStub(channel)
    await service.stop()


async def test_a_bad_source_is_an_invalid_argument_that_names_it(
    stub: grammar_pb2_grpc.GrammarServiceAsyncStub,
) -> None:
    for kind, text, says in BAD:
        with pytest.raises(grpc.aio.AioRpcError, match=says) as caught:
            await stub.Compile(pb.CompileRequest(kind=int(kind), text=text))  # type: ignore[arg-type]
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, (kind, text[:80])


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (GrammarKind.REGEX, "(a+)+(a|a)*b$"),
        (GrammarKind.JSON_SCHEMA, '{"type": "string", "pattern": "^(([a-z])+.)+[A-Z]([a-z])+$"}'),
        (
            GrammarKind.JSON_SCHEMA,
            json.dumps({"properties": {f"p{i}": {"type": "null", "description": "d" * 10_000} for i in range(100)}}),
        ),
        (GrammarKind.STRUCTURAL_TAG, _tag({"type": "json_schema", "json_schema": {"type": "string", "maxLength": 3}})),
        (
            GrammarKind.STRUCTURAL_TAG,
            _tag({"type": "json_schema", "style": "qwen_xml", "json_schema": {"properties": {}}}),
        ),
    ],
    ids=["nested stars", "nested stars in a pattern", "a schema of 1 MB", "a tag", "a tag in XML"],
)
async def test_what_only_looks_hostile_is_compiled(
    stub: grammar_pb2_grpc.GrammarServiceAsyncStub, kind: GrammarKind, text: str
) -> None:
    answer = await stub.Compile(pb.CompileRequest(kind=int(kind), text=text))  # type: ignore[arg-type]
    assert len(answer.key) == 32
