"""Thoughts in chats: told from the answer, bounded, and left out of what a constraint holds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bough.common.config import ConfigError, Settings
from bough.common.sampling import Reasoning
from bough.gateway.domain import ChatPrompt
from bough.gateway.markup import Formats, Thoughts, thoughts_after
from bough.gateway.parsers.registry import REASONING_FORMATS
from bough.gateway.service import create
from tests.gateway.chats import MESSAGES, ask, assembled, events, hermes, tool, whole, without_ids
from tests.gateway.conftest import Deploy, Deployment

OPEN, CLOSED = "<think>\n", "<think>\n\n</think>\n\n"
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}


@pytest.fixture
async def thinker(deploy: Deploy) -> Deployment:
    deployment = await deploy(tool_parser="hermes", reasoning_parser="qwen3")
    deployment.chain.tokenizer.tail = OPEN
    return deployment


def says(deployment: Deployment, text: str) -> None:
    deployment.chain.backend.reply = lambda prompt, sibling: text


def reasoning_of(deployment: Deployment) -> Reasoning | None:
    return deployment.chain.backend.submissions[-1].sampling.reasoning


@pytest.mark.parametrize(
    ("tail", "text"),
    [(OPEN, "deep\nthoughts</think>\n\n42"), ("", "<think>\n\n deep\nthoughts \n</think>\n\n42")],
)
async def test_thoughts_come_apart_from_the_answer(thinker: Deployment, tail: str, text: str) -> None:
    thinker.chain.tokenizer.tail = tail
    says(thinker, text)
    answer = (await ask(thinker)).json()
    choice = answer["choices"][0]
    assert choice["message"]["reasoning_content"] == "deep\nthoughts"
    assert choice["message"]["content"] == "42"
    assert choice["finish_reason"] == "stop"
    thoughts = text.index("</think>") + len("</think>")
    assert answer["usage"]["completion_tokens"] == len(text)
    chunks = await events(thinker, stream_options={"include_usage": True})
    assert assembled(chunks) == choice
    for usage in (answer["usage"], chunks[-1]["usage"]):
        # Here the closing marker is eight tokens, so that the place is known by pieces only.
        assert abs(usage["completion_tokens_details"]["reasoning_tokens"] - thoughts) <= 8
    kinds = [next(iter(chunk["choices"][0]["delta"]), "") for chunk in chunks[1:-2]]
    assert kinds == sorted(kinds, reverse=True), "first all thoughts, then the answer"


async def test_a_prompt_that_closed_the_thoughts_gets_a_plain_answer(thinker: Deployment) -> None:
    thinker.chain.tokenizer.tail = CLOSED
    says(thinker, "an answer with </think> in it")
    choice = await whole(thinker, response_format=SCHEMA, thinking_budget=5)
    assert choice["message"]["content"] == "an answer with </think> in it"
    assert reasoning_of(thinker) is None, "a constraint holds at once"


async def test_without_separation_the_text_stays_as_it_is(thinker: Deployment) -> None:
    says(thinker, "deep</think>\n\n42")
    choice = await whole(thinker, separate_reasoning=False, response_format=SCHEMA)
    assert choice["message"] == {"role": "assistant", "content": "deep</think>\n\n42", "refusal": None}
    assert reasoning_of(thinker) == Reasoning(end="</think>"), "the constraint still holds after them only"


async def test_thoughts_that_are_cut_off_are_thoughts(thinker: Deployment) -> None:
    says(thinker, "deep thoughts</think>42")
    answer = (await ask(thinker, max_tokens=8)).json()
    choice = answer["choices"][0]
    assert choice["message"]["reasoning_content"] == "deep tho"
    assert choice["message"]["content"] is None
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 8}


async def test_a_model_that_did_not_think_used_no_tokens_for_it(thinker: Deployment) -> None:
    thinker.chain.tokenizer.tail = ""
    says(thinker, "42")
    answer = (await ask(thinker)).json()
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "42", "refusal": None}
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 0}


async def test_calls_come_after_thoughts_and_are_none_within_them(thinker: Deployment) -> None:
    says(thinker, "maybe " + hermes(("add", {"a": 0})) + "</think>\n\n" + hermes(("add", {"a": 7})))
    choice = await whole(thinker, tools=[tool("add")], tool_choice="required")
    (call,) = choice["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"a": 7}
    assert "<tool_call>" in choice["message"]["reasoning_content"]
    assert choice["message"]["content"] is None
    assert assembled(await events(thinker, tools=[tool("add")])) == without_ids(choice)
    thinker.chain.backend.submissions.clear()
    await whole(thinker, tools=[tool("add")], tool_choice="required")
    assert reasoning_of(thinker) == Reasoning(end="</think>")


async def test_nothing_is_said_of_thoughts_where_nothing_depends_on_them(thinker: Deployment) -> None:
    await whole(thinker)
    assert reasoning_of(thinker) is None


@pytest.mark.parametrize("name", ["thinking_budget", "max_thinking_tokens"])
async def test_a_budget_comes_with_ids_that_close_the_thoughts(thinker: Deployment, name: str) -> None:
    await whole(thinker, **{name: 7})
    closing = tuple(map(ord, "\n</think>"))
    assert reasoning_of(thinker) == Reasoning(end="</think>", max_tokens=7, closing_ids=closing)


async def test_no_budget_closes_the_thoughts_where_the_template_cannot(thinker: Deployment) -> None:
    await whole(thinker, thinking_budget=0)
    closing = tuple(map(ord, "\n</think>"))
    assert reasoning_of(thinker) == Reasoning(end="</think>", max_tokens=0, closing_ids=closing)
    thinker.chain.tokenizer.tail = ""
    says(thinker, "<think>\n\n</think>42")
    choice = await whole(thinker, thinking_budget=0)
    closing = tuple(map(ord, "<think>\n\n</think>"))
    assert reasoning_of(thinker) == Reasoning(end="</think>", max_tokens=0, closing_ids=closing)
    assert choice["message"] == {"role": "assistant", "content": "42", "refusal": None}


async def test_no_budget_and_no_effort_turn_thinking_off_where_the_template_can(thinker: Deployment) -> None:
    for body in ({"thinking_budget": 0}, {"reasoning_effort": "none"}):
        await whole(thinker, **body)
        kwargs = json.loads(thinker.chain.tokenizer.chats[-1].template_kwargs_json)
        assert kwargs["enable_thinking"] is False
    await whole(thinker, reasoning_effort="none", chat_template_kwargs={"enable_thinking": True})
    assert json.loads(thinker.chain.tokenizer.chats[-1].template_kwargs_json)["enable_thinking"] is True
    await whole(thinker, reasoning_effort="high")
    assert json.loads(thinker.chain.tokenizer.chats[-1].template_kwargs_json) == {"reasoning_effort": "high"}


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"thinking_budget": -1}, "thinking_budget", "-1, accepted is an integer from 0"),
        ({"max_thinking_tokens": -1}, "max_thinking_tokens", "-1, accepted is an integer from 0"),
        ({"thinking_budget": 1.5}, "thinking_budget", "an integer from 0"),
        ({"thinking_budget": 1, "max_thinking_tokens": 2}, "max_thinking_tokens", "thinking_budget (1)"),
        ({"separate_reasoning": "no"}, "separate_reasoning", '"no"'),
    ],
)
async def test_what_is_wrong_with_a_budget_is_named(
    thinker: Deployment, body: dict[str, Any], param: str, said: str
) -> None:
    answer = await ask(thinker, **body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert said in answer.json()["error"]["message"]


async def test_a_budget_of_a_model_without_thoughts_is_refused(deployment: Deployment) -> None:
    error = (await ask(deployment, thinking_budget=5)).json()["error"]
    assert error["param"] == "thinking_budget" and "reasoning_parser" in error["message"]
    assert (await ask(deployment, thinking_budget=0)).status_code == 200


async def test_log_probabilities_cover_the_thoughts(thinker: Deployment) -> None:
    says(thinker, text := "deep</think>\n\n42")
    choice = await whole(thinker, logprobs=True)
    assert [entry["token"] for entry in choice["logprobs"]["content"]] == list(text)
    chunks = await events(thinker, logprobs=True)
    entries = [e for c in chunks if c["choices"][0]["logprobs"] for e in c["choices"][0]["logprobs"]["content"]]
    assert [entry["token"] for entry in entries] == list(text)


async def test_thoughts_of_earlier_messages_reach_the_template(thinker: Deployment) -> None:
    messages = [*MESSAGES, {"role": "assistant", "content": "42", "reasoning_content": "deep"}, *MESSAGES]
    await whole(thinker, messages=messages)
    assert json.loads(thinker.chain.tokenizer.chats[-1].messages_json)[1]["reasoning_content"] == "deep"


async def test_the_parser_is_chosen_by_the_chat_template(deployment: Deployment) -> None:
    deployment.chain.tokenizer.chat_template = "{{ '<think>' }}"
    deployment.chain.tokenizer.tail = OPEN
    says(deployment, "deep</think>42")
    assert (await whole(deployment))["message"]["reasoning_content"] == "deep"


async def test_none_switches_the_parser_off(deploy: Deploy) -> None:
    deployment = await deploy(reasoning_parser="none")
    deployment.chain.tokenizer.chat_template = "{{ '<think>' }}"
    deployment.chain.tokenizer.tail = OPEN
    says(deployment, "deep</think>42")
    assert (await whole(deployment))["message"]["content"] == "deep</think>42"


@pytest.mark.parametrize("setting", ["tool_parser", "reasoning_parser"])
def test_an_unknown_parser_is_refused_at_the_start_with_those_there_are(deployment: Deployment, setting: str) -> None:
    with pytest.raises(ConfigError, match=f"{setting} = 'hermse': accepted is one of auto, none, "):
        create(Settings.model_validate({"model": deployment.chain.model, setting: "hermse"}))


@pytest.mark.parametrize(
    ("text", "continues", "expected"),
    [
        ("<|im_start|>assistant\n", False, Thoughts.POSSIBLE),
        ("<|im_start|>assistant\n<think>\n", False, Thoughts.OPEN),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False, Thoughts.NONE),
        ("<|im_start|>assistant\n</think>", False, Thoughts.NONE),
        ("What is <think>?<|im_end|>\n<|im_start|>assistant\n", False, Thoughts.POSSIBLE),
        ("<think>a</think>call<|im_end|>\n<|im_start|>assistant\n", False, Thoughts.POSSIBLE),
        ("<think>a</think>call<|im_end|>\n<|im_start|>assistant\n<think>\n", False, Thoughts.OPEN),
        ("<|im_start|>assistant\n<think>\nhalf a tho", True, Thoughts.OPEN),
        ("<|im_start|>assistant\n<think>\na\n</think>\n\nThe ans", True, Thoughts.NONE),
        ("<|im_start|>assistant\nThe ans", True, Thoughts.NONE),
    ],
)
def test_the_end_of_the_prompt_tells_whether_thoughts_follow(text: str, continues: bool, expected: Thoughts) -> None:
    prompt = ChatPrompt(messages_json="[]", continue_final_message=continues, add_generation_prompt=not continues)
    assert thoughts_after(text, prompt, Formats(None, REASONING_FORMATS["qwen3"])) is expected
    assert thoughts_after(text, prompt, Formats()) is Thoughts.NONE


async def test_a_continued_message_goes_on_where_it_was(thinker: Deployment) -> None:
    thinker.chain.tokenizer.tail = ""
    says(thinker, "wer is 42")
    messages = [*MESSAGES, {"role": "assistant", "content": "The ans"}]
    choice = await whole(thinker, messages=messages, continue_final_message=True, response_format=SCHEMA)
    assert choice["message"]["content"] == "wer is 42"
    assert reasoning_of(thinker) is None
    messages[-1]["content"] = "<think>\nhalf a tho"
    says(thinker, "ught</think>42")
    choice = await whole(thinker, messages=messages, continue_final_message=True, response_format=SCHEMA)
    assert choice["message"]["reasoning_content"] == "ught"
    assert choice["message"]["content"] == "42"
    assert reasoning_of(thinker) == Reasoning(end="</think>")


async def test_an_answer_of_gpt_oss_is_held_behind_its_header(deploy: Deploy) -> None:
    deployment = await deploy(reasoning_parser="gpt_oss", tool_parser="gpt_oss")
    says(deployment, "<|channel|>analysis<|message|>deep<|end|><|start|>assistant<|channel|>final<|message|>yes")
    choice = await whole(deployment, choice=["yes"])
    assert choice["message"]["reasoning_content"] == "deep"
    assert choice["message"]["content"] == "yes"
    submission = deployment.chain.backend.submissions[-1]
    assert not submission.text.skip_special_tokens
    assert reasoning_of(deployment) == Reasoning(end="<|end|>")
    assert submission.sampling.grammar is not None
    role, head, answer = json.loads(submission.sampling.grammar.text)["format"]["elements"]
    assert role == {"type": "optional", "content": {"type": "const_string", "value": "<|start|>assistant"}}
    assert head == {"type": "const_string", "value": "<|channel|>final<|message|>"}
    assert answer["elements"] == [{"type": "const_string", "value": "yes"}]
    messages = [*MESSAGES, {"role": "assistant", "content": "y"}]
    await whole(deployment, messages=messages, continue_final_message=True, choice=["yes"])
    grammar = deployment.chain.backend.submissions[-1].sampling.grammar
    assert grammar is not None and grammar.text == '["yes"]'
