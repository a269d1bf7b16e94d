"""Each way to ask for a constraint, and every pair of them refused."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from bough.common.errors import InvalidRequestError
from bough.common.sampling import GrammarKind
from bough.gateway.body import parse_body
from bough.gateway.codec import decode_generate
from bough.gateway.constraints import body_constraint, one_of
from bough.gateway.domain import Constraint
from bough.gateway.schema import ChatBody, CompletionBody
from bough.rpc.v1 import gateway_pb2
from tests.gateway.conftest import Deployment

SCHEMA = {"type": "object", "properties": {"ä": {"type": "integer"}}}
TAG = {"type": "triggered_tags", "triggers": ["<f="], "tags": []}
STRUCTURES = [{"begin": "<f=a>", "schema": {"type": "object"}, "end": "</f>"}]
OLDER = {"structures": STRUCTURES, "triggers": ["<f="]}
JSON_FORMAT = {"type": "json_schema", "max_whitespace_cnt": 16}
OLDER_AS_FORMAT = {
    "type": "triggered_tags",
    "triggers": ["<f="],
    "tags": [
        {
            "type": "tag",
            "begin": "<f=a>",
            "content": {"type": "json_schema", "json_schema": {"type": "object"}, "max_whitespace_cnt": 16},
            "end": "</f>",
        }
    ],
}


async def constraint(**fields: Any) -> Constraint | None:
    text = json.dumps({"prompt": "x", **fields}).encode()
    return body_constraint(await parse_body(text, CompletionBody))


def tag(form: Any) -> dict[str, Any]:
    return {"type": "structural_tag", "format": form}


@pytest.mark.parametrize(
    ("fields", "kind", "value"),
    [
        ({"response_format": {"type": "json_object"}}, GrammarKind.JSON_OBJECT, None),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
            GrammarKind.JSON_SCHEMA,
            SCHEMA,
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA, "strict": False}}},
            GrammarKind.JSON_SCHEMA,
            SCHEMA,
        ),
        ({"response_format": {"type": "structural_tag", "format": TAG}}, GrammarKind.STRUCTURAL_TAG, tag(TAG)),
        (
            {"response_format": {"type": "structural_tag", **OLDER}},
            GrammarKind.STRUCTURAL_TAG,
            tag(OLDER_AS_FORMAT),
        ),
        ({"structural_tag": tag(TAG)}, GrammarKind.STRUCTURAL_TAG, tag(TAG)),
        ({"structural_tag": json.dumps(tag(TAG))}, GrammarKind.STRUCTURAL_TAG, tag(TAG)),
        ({"structural_tag": json.dumps(OLDER)}, GrammarKind.STRUCTURAL_TAG, tag(OLDER_AS_FORMAT)),
        ({"regex": "a+"}, GrammarKind.REGEX, "a+"),
        ({"ebnf": 'root ::= "a"'}, GrammarKind.EBNF, 'root ::= "a"'),
        ({"choice": ["yes", "nö"]}, GrammarKind.CHOICE, ["yes", "nö"]),
        ({"guided_json": SCHEMA}, GrammarKind.JSON_SCHEMA, SCHEMA),
        ({"guided_json": json.dumps(SCHEMA)}, GrammarKind.JSON_SCHEMA, SCHEMA),
        ({"guided_regex": "a+"}, GrammarKind.REGEX, "a+"),
        ({"guided_choice": ["a"]}, GrammarKind.CHOICE, ["a"]),
        ({"guided_grammar": 'root ::= "a"'}, GrammarKind.EBNF, 'root ::= "a"'),
        ({"structured_outputs": {"json": SCHEMA}}, GrammarKind.JSON_SCHEMA, SCHEMA),
        ({"structured_outputs": {"regex": "a+"}}, GrammarKind.REGEX, "a+"),
        ({"structured_outputs": {"choice": ["a"]}}, GrammarKind.CHOICE, ["a"]),
        ({"structured_outputs": {"grammar": 'root ::= "a"'}}, GrammarKind.EBNF, 'root ::= "a"'),
        ({"structured_outputs": {"json_object": True}}, GrammarKind.JSON_OBJECT, None),
        ({"structured_outputs": {"structural_tag": tag(TAG)}}, GrammarKind.STRUCTURAL_TAG, tag(TAG)),
    ],
)
async def test_every_way_to_ask_for_a_constraint(fields: dict[str, Any], kind: GrammarKind, value: Any) -> None:
    found = await constraint(**fields)
    assert found is not None and found.kind is kind
    assert found.field.split(".")[0] in fields
    if kind in (GrammarKind.REGEX, GrammarKind.EBNF):
        assert found.text == value
    elif kind is GrammarKind.JSON_OBJECT:
        assert found.text == ""
    else:
        assert json.loads(found.text) == value


@pytest.mark.parametrize(
    "fields", [{}, {"response_format": {"type": "text"}}, {"structured_outputs": {"json_object": False}}]
)
async def test_nothing_asked_is_no_constraint(fields: dict[str, Any]) -> None:
    assert await constraint(**fields) is None


ASKED: dict[str, Any] = {
    "response_format": {"type": "json_object"},
    "structured_outputs": {"regex": "a"},
    "regex": "a",
    "ebnf": 'root ::= "a"',
    "choice": ["a"],
    "structural_tag": tag(TAG),
    "guided_json": SCHEMA,
}


@pytest.mark.parametrize(("first", "second"), [*itertools.combinations(ASKED, 2)])
async def test_two_constraints_are_refused_with_both_names(first: str, second: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await constraint(**{first: ASKED[first], second: ASKED[second]})
    assert first in str(caught.value) and second in str(caught.value)
    assert str(caught.value.field).startswith(second)


async def test_two_constraints_in_one_field_are_refused_too() -> None:
    with pytest.raises(InvalidRequestError, match=r"structured_outputs\.regex.*structured_outputs\.json"):
        await constraint(structured_outputs={"regex": "a", "json": SCHEMA})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"choice": []}, r"choice: got \[\], accepted is a list of at least one string"),
        ({"choice": ["a", 1]}, r"choice\[1\]: got 1"),
        ({"ebnf": 5}, "ebnf: got 5"),
        ({"structural_tag": "{"}, "structural_tag: got"),
        ({"structural_tag": "[1]"}, "structural_tag: got"),
        ({"structural_tag": {"type": "structural_tag"}}, "structural_tag.format: got null"),
        ({"structural_tag": {"type": "other", "format": TAG}}, r'structural_tag.type: got "other"'),
        ({"structural_tag": {"structures": [{"begin": "a"}], "triggers": ["a"]}}, r"structural_tag.structures\[0\]"),
        ({"structural_tag": '{"format": {"value": "\\ud800"}}'}, "structural_tag: got"),
        ({"response_format": {"type": "structural_tag"}}, "response_format.format: got null"),
        ({"response_format": {"type": "structural_tag", "structures": STRUCTURES}}, "response_format.triggers"),
        ({"guided_json": "{"}, "guided_json: got .*accepted is a JSON schema"),
        ({"guided_json": '{"const": NaN}'}, "guided_json"),
        ({"structured_outputs": {"xml": "a"}}, "structured_outputs.xml: unknown field"),
    ],
)
async def test_a_constraint_that_cannot_be_read_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        await constraint(**fields)


async def test_chats_take_the_same_fields(deployment: Deployment) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "choice": ["a", "b"]}
    assert (await deployment.client.post("/v1/chat/completions", json=body)).status_code == 200
    (submission,) = deployment.chain.backend.submissions
    assert submission.sampling.grammar is not None
    assert (submission.sampling.grammar.kind, submission.sampling.grammar.text) == (GrammarKind.CHOICE, '["a", "b"]')


async def test_what_the_grammar_service_refuses_names_the_field(deployment: Deployment) -> None:
    answer = await deployment.client.post("/v1/completions", json={"prompt": "x", "ebnf": "bad"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "ebnf"


def test_grpc_takes_them_by_the_same_rules() -> None:
    found = decode_generate(gateway_pb2.GenerateRequest(text="x", structural_tag=json.dumps(OLDER))).constraint
    assert found is not None and json.loads(found.text) == tag(OLDER_AS_FORMAT)
    with pytest.raises(InvalidRequestError, match="structural_tag"):
        decode_generate(gateway_pb2.GenerateRequest(text="x", structural_tag="{"))


@pytest.mark.parametrize(
    ("kind", "text", "form"),
    [
        (GrammarKind.JSON_OBJECT, "", JSON_FORMAT | {"json_schema": {"type": "object"}}),
        (GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA), JSON_FORMAT | {"json_schema": SCHEMA}),
        (GrammarKind.REGEX, "a+", {"type": "regex", "pattern": "a+"}),
        (GrammarKind.EBNF, 'root ::= "a"', {"type": "grammar", "grammar": 'root ::= "a"'}),
        (GrammarKind.CHOICE, '["a"]', {"type": "or", "elements": [{"type": "const_string", "value": "a"}]}),
        (GrammarKind.STRUCTURAL_TAG, json.dumps(tag(TAG)), TAG),
    ],
)
def test_each_kind_can_stand_beside_tool_calls(kind: GrammarKind, text: str, form: dict[str, Any]) -> None:
    calls = {"type": "any_text"}
    both = one_of(calls, Constraint(kind=kind, text=text, field="f"))
    assert (both.kind, both.field) == (GrammarKind.STRUCTURAL_TAG, "f")
    assert json.loads(both.text) == tag({"type": "or", "elements": [calls, form]})


async def test_a_chat_body_knows_the_names(deployment: Deployment) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "chioce": ["a"]}
    answer = await deployment.client.post("/v1/chat/completions", json=body)
    assert "did you mean choice?" in answer.json()["error"]["message"]
    assert "choice" in ChatBody.model_fields
