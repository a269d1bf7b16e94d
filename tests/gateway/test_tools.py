"""Tools in chats: what is asked of the model, how its calls come back, and what is refused."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from bough.common.sampling import GrammarKind
from tests.gateway.chats import ask, assembled, events, hermes, tool, whole, without_ids
from tests.gateway.conftest import Deploy, Deployment

TOOLS = [tool("add", a="integer", b="integer"), tool("look-up_2", what="string")]
NAMED = {"type": "function", "function": {"name": "add"}}


@pytest.fixture
async def hermes_model(deploy: Deploy) -> Deployment:
    return await deploy(tool_parser="hermes")


def says(deployment: Deployment, text: str) -> None:
    deployment.chain.backend.reply = lambda prompt, sibling: text


def grammar_of(deployment: Deployment) -> dict[str, Any] | None:
    grammar = deployment.chain.backend.submissions[-1].sampling.grammar
    if grammar is None:
        return None
    assert grammar.kind is GrammarKind.STRUCTURAL_TAG
    text: dict[str, Any] = json.loads(grammar.text)
    return text


async def test_a_call_comes_back_as_in_openais_api(hermes_model: Deployment) -> None:
    says(hermes_model, hermes(("add", {"a": 7, "b": 5})))
    choice = await whole(hermes_model, tools=TOOLS)
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert re.fullmatch("call_[0-9a-f]{24}", call["id"])
    assert call["type"] == "function"
    assert call["function"]["name"] == "add"
    assert json.loads(call["function"]["arguments"]) == {"a": 7, "b": 5}


TEXTS = [
    hermes(("add", {"a": 7, "b": 5})),
    hermes(("add", {"a": 7, "b": 5}), ("look-up_2", {"what": "thé\u2028 <tool_call>"})),
    "Let me see.\n\n" + hermes(("add", {"a": 1, "b": 2})),
    "no call at all \n",
    hermes(("add", '{"a": 7, "b"')),
    "a call of " + hermes(("unknown", {})),
    "",
]


@pytest.mark.parametrize("text", TEXTS)
async def test_a_stream_adds_up_to_the_whole_answer(hermes_model: Deployment, text: str) -> None:
    says(hermes_model, text)
    expected = without_ids(await whole(hermes_model, tools=TOOLS))
    found = assembled(await events(hermes_model, tools=TOOLS))
    if expected["message"]["content"] == "":
        expected["message"]["content"] = None  # a stream without any text has no delta to say so
    assert found == expected


async def test_the_parts_of_a_call_come_in_openais_order(hermes_model: Deployment) -> None:
    says(hermes_model, hermes(("add", {"a": 7, "b": 5})))
    chunks = await events(hermes_model, tools=TOOLS)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": None}
    (first,) = deltas[1]["tool_calls"]
    assert re.fullmatch("call_[0-9a-f]{24}", first.pop("id"))
    assert first == {"index": 0, "type": "function", "function": {"name": "add", "arguments": ""}}
    rest = [delta["tool_calls"] for delta in deltas[2:-1]]
    assert json.loads("".join(part[0]["function"]["arguments"] for part in rest)) == {"a": 7, "b": 5}
    assert deltas[-1] == {}


async def test_text_beside_calls_is_content_without_blank_ends(hermes_model: Deployment) -> None:
    says(hermes_model, "Let me see.\n\n" + hermes(("add", {}), ("add", {})) + "\n")
    choice = await whole(hermes_model, tools=TOOLS)
    assert choice["message"]["content"] == "Let me see."
    assert len(choice["message"]["tool_calls"]) == 2


async def test_an_answer_without_calls_keeps_its_blanks(hermes_model: Deployment) -> None:
    says(hermes_model, " just text \n")
    choice = await whole(hermes_model, tools=TOOLS)
    assert choice["message"] == {"role": "assistant", "content": " just text \n", "refusal": None}
    assert choice["finish_reason"] == "stop"


async def test_without_parallel_calls_only_the_first_counts(hermes_model: Deployment) -> None:
    says(hermes_model, hermes(("add", {"a": 1}), ("add", {"a": 2})))
    choice = await whole(hermes_model, tools=TOOLS, parallel_tool_calls=False)
    (call,) = choice["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"a": 1}
    assert assembled(await events(hermes_model, tools=TOOLS, parallel_tool_calls=False)) == without_ids(choice)


async def test_a_call_that_is_cut_off_ends_with_length(hermes_model: Deployment) -> None:
    text = hermes(("add", {"a": 7, "b": 5}))
    says(hermes_model, text)
    limit = text.index("7") + 1
    choice = await whole(hermes_model, tools=TOOLS, max_tokens=limit)
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 7'}
    assert assembled(await events(hermes_model, tools=TOOLS, max_tokens=limit)) == without_ids(choice)


async def test_siblings_make_their_own_calls(hermes_model: Deployment) -> None:
    hermes_model.chain.backend.reply = lambda prompt, sibling: hermes(("add", {"a": sibling})) if sibling else "none"
    answer = await ask(hermes_model, tools=TOOLS, n=3)
    choices = answer.json()["choices"]
    assert [choice["finish_reason"] for choice in choices] == ["stop", "tool_calls", "tool_calls"]
    assert len({choice["message"]["tool_calls"][0]["id"] for choice in choices[1:]}) == 2
    chunks = await events(hermes_model, tools=TOOLS, n=3)
    assert [assembled(chunks, i) for i in range(3)] == [without_ids(choice) for choice in choices]


async def test_auto_without_strict_tools_leaves_the_model_free(hermes_model: Deployment) -> None:
    await whole(hermes_model, tools=TOOLS, tool_choice="auto")
    assert grammar_of(hermes_model) is None
    await whole(hermes_model, tools=[tool("add", strict=False)])
    assert grammar_of(hermes_model) is None


async def test_auto_with_a_strict_tool_holds_calls_to_their_schemas(hermes_model: Deployment) -> None:
    await whole(hermes_model, tools=[tool("add", strict=True, a="integer"), tool("other", b="string")])
    text = json.dumps(grammar_of(hermes_model))
    assert '"a"' in text and "integer" in text
    assert '"b"' not in text, "this one is not strict"


async def test_required_holds_to_all_tools_and_named_to_one(hermes_model: Deployment) -> None:
    says(hermes_model, hermes(("add", {"a": 7, "b": 5})))
    assert (await whole(hermes_model, tools=TOOLS, tool_choice="required"))["finish_reason"] == "tool_calls"
    text = json.dumps(grammar_of(hermes_model))
    assert "add" in text and "look-up_2" in text and "what" in text
    choice = await whole(hermes_model, tools=TOOLS, tool_choice=NAMED)
    assert choice["finish_reason"] == "stop", "as OpenAI has it where the client chose"
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "add"
    text = json.dumps(grammar_of(hermes_model))
    assert "add" in text and "look-up_2" not in text


async def test_allowed_tools_narrow_the_choice(hermes_model: Deployment) -> None:
    says(hermes_model, hermes(("add", {}), ("look-up_2", {})))
    allowed: dict[str, Any] = {"mode": "auto", "tools": [NAMED]}
    choice = await whole(hermes_model, tools=TOOLS, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["add"]
    assert grammar_of(hermes_model) is None
    allowed["mode"] = "required"
    await whole(hermes_model, tools=TOOLS, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert "look-up_2" not in json.dumps(grammar_of(hermes_model))
    seen = json.loads(hermes_model.chain.tokenizer.chats[-1].tools_json)
    assert len(seen) == 2, "the prompt stays the same whatever is allowed"


async def test_a_forced_call_follows_its_schema_strict_or_not(hermes_model: Deployment) -> None:
    for strict in (True, False, None):
        await whole(hermes_model, tools=[tool("add", strict=strict, held="string")], tool_choice="required")
        assert "held" in json.dumps(grammar_of(hermes_model))


async def test_with_a_response_format_the_answer_is_calls_or_that(hermes_model: Deployment) -> None:
    await whole(hermes_model, tools=TOOLS, response_format={"type": "json_object"})
    grammar = grammar_of(hermes_model)
    assert grammar is not None
    assert grammar["format"]["type"] == "or"
    calls, answer = grammar["format"]["elements"]
    assert "look-up_2" in json.dumps(calls)
    assert answer == {"type": "json_schema", "json_schema": {"type": "object"}, "max_whitespace_cnt": 16}


async def test_tool_choice_none_leaves_the_text_and_hides_the_tools(hermes_model: Deployment) -> None:
    says(hermes_model, text := hermes(("add", {})))
    choice = await whole(hermes_model, tools=TOOLS, tool_choice="none")
    assert choice["message"] == {"role": "assistant", "content": text, "refusal": None}
    assert hermes_model.chain.tokenizer.chats[-1].tools_json == ""


async def test_malformed_arguments_are_passed_on_as_they_are(hermes_model: Deployment) -> None:
    says(hermes_model, hermes(("add", '{"a": 07, nonsense]')))
    choice = await whole(hermes_model, tools=TOOLS)
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["arguments"].startswith('{"a": 07')
    assert assembled(await events(hermes_model, tools=TOOLS)) == without_ids(choice)


async def test_without_a_parser_text_stays_text_and_nothing_can_be_forced(deployment: Deployment) -> None:
    says(deployment, text := hermes(("add", {})))
    choice = await whole(deployment, tools=TOOLS, tool_choice="auto")
    assert choice["message"]["content"] == text
    assert "tool_calls" not in choice["message"]
    for forced in ("required", NAMED):
        error = (await ask(deployment, tools=TOOLS, tool_choice=forced)).json()["error"]
        assert error["param"] == "tool_choice"
        assert "tool_parser" in error["message"]


async def test_the_parser_is_chosen_by_the_chat_template(deployment: Deployment) -> None:
    deployment.chain.tokenizer.chat_template = "{{ '<tool_call>' }}"
    says(deployment, hermes(("add", {})))
    assert (await whole(deployment, tools=TOOLS))["finish_reason"] == "tool_calls"


async def test_log_probabilities_and_ids_go_with_whatever_comes(hermes_model: Deployment) -> None:
    says(hermes_model, text := "ok " + hermes(("add", {"a": 7})))
    wanted: dict[str, Any] = {"tools": TOOLS, "logprobs": True, "return_token_ids": True}
    choice = await whole(hermes_model, **wanted)
    assert [entry["token"] for entry in choice["logprobs"]["content"]] == list(text)
    assert choice["token_ids"] == [ord(c) for c in text]
    chunks = await events(hermes_model, **wanted)
    choices = [chunk["choices"][0] for chunk in chunks]
    entries = [entry for c in choices if c["logprobs"] for entry in c["logprobs"]["content"]]
    assert [entry["token"] for entry in entries] == list(text)
    assert [token for c in choices for token in c.get("token_ids", ())] == [ord(c) for c in text]
    assert assembled(chunks)["message"] == without_ids(choice)["message"]


async def test_special_tokens_stay_in_the_text_only_where_markers_are_some(deploy: Deploy) -> None:
    deployment = await deploy(tool_parser="mistral")
    await whole(deployment, tools=TOOLS)
    assert not deployment.chain.backend.submissions[-1].text.skip_special_tokens
    await whole(deployment, tools=TOOLS, tool_choice="none")
    assert deployment.chain.backend.submissions[-1].text.skip_special_tokens
    await whole(deployment)
    assert deployment.chain.backend.submissions[-1].text.skip_special_tokens


BAD_TOOLS: list[tuple[dict[str, Any], str, str]] = [
    ({"tools": [tool("a b")]}, "tools[0].function.name", "1 to 64 letters"),
    ({"tools": [tool("")]}, "tools[0].function.name", '""'),
    ({"tools": [tool("x" * 65)]}, "tools[0].function.name", "1 to 64"),
    ({"tools": [tool("a\n")]}, "tools[0].function.name", '"a\\n"'),
    ({"tools": [tool("f"), tool("g"), tool("f")]}, "tools[2].function.name", '"f", accepted is a name that no other'),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": [1]}}]}, "tools[0].function.p", "[1]"),
    (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}]},
        "tools[0].function.parameters.type",
        '"object"',
    ),
    ({"tools": [{"type": "function", "function": {"name": "f", "strict": 1}}]}, "tools[0].function.strict", "1"),
    ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0]", "function"),
    ({"tools": TOOLS, "tool_choice": "any"}, "tool_choice", '"any", accepted is "none", "auto", "required"'),
    ({"tools": TOOLS, "tool_choice": {"type": "function"}}, "tool_choice.function.name", "add, look-up_2"),
    (
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "addd"}}},
        "tool_choice.function.name",
        '"addd", accepted is the name of one of the tools: add, look-up_2',
    ),
    ({"tools": TOOLS, "tool_choice": 5}, "tool_choice", "5"),
    ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools", "null"),
    (
        {
            "tools": TOOLS,
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [NAMED, {"type": "function", "function": {"name": "x"}}]},
            },
        },
        "tool_choice.allowed_tools.tools[1].function.name",
        '"x"',
    ),
    ({"tool_choice": "required"}, "tool_choice", "without tools"),
    ({"tools": [], "tool_choice": NAMED}, "tool_choice", "without tools"),
    ({"tools": TOOLS, "tool_choice": "required", "regex": "a"}, "regex", "tool_choice"),
    (
        {"tools": TOOLS, "tool_choice": NAMED, "response_format": {"type": "json_object"}},
        "response_format",
        "tool_choice",
    ),
]


@pytest.mark.parametrize(("body", "param", "said"), BAD_TOOLS)
async def test_what_is_wrong_with_tools_is_named(
    hermes_model: Deployment, body: dict[str, Any], param: str, said: str
) -> None:
    answer = await ask(hermes_model, **body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert str(error["param"]).startswith(param)
    assert said in error["message"]
    assert hermes_model.chain.backend.submissions == []


async def test_a_schema_that_cannot_be_compiled_is_the_tools_fault(hermes_model: Deployment) -> None:
    answer = await ask(hermes_model, tools=[tool("add", bad="integer")], tool_choice="required")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "tools"


async def test_the_tokenize_page_checks_tools_too(deployment: Deployment) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "tools": [tool("f"), tool("f")]}
    answer = await deployment.client.post("/v1/tokenize", json=body)
    assert answer.json()["error"]["param"] == "tools[1].function.name"
