"""Chats in programs: what further messages add to a state."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from bough.rpc.v1 import gateway_pb2, tokenizer_pb2
from bough.rpc.v1 import program_pb2 as pb
from tests.gateway.conftest import Deployment
from tests.gateway.programs.client import CallFailedError, ProgramClient, gen, text

SYSTEM = {"role": "system", "content": "be brief"}
USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "ho"}
MORE = {"role": "user", "content": "so?"}


def render(request: tokenizer_pb2.EncodeChatRequest) -> str:
    """A template such as models have: marks around each message."""
    messages: list[dict[str, Any]] = json.loads(request.messages_json)
    rendered = "".join(f"<{message['role'][0]}>{message['content']}</>" for message in messages)
    if request.continue_final_message:
        return rendered.removesuffix("</>")
    return f"{rendered}<a>" if request.add_generation_prompt else rendered


def render_without_earlier_thoughts(request: tokenizer_pb2.EncodeChatRequest) -> str:
    """As models that think have it: thoughts stay only in the last message."""
    messages: list[dict[str, Any]] = json.loads(request.messages_json)
    for message in messages[:-1]:
        message["content"] = message["content"].rpartition("]")[2]
    request.messages_json = json.dumps(messages)
    return render(request)


def chat(*messages: dict[str, Any], num_known: int = 0, is_open: bool = False, open_turn: bool = False) -> Any:
    prompt = gateway_pb2.ChatPrompt(messages_json=json.dumps(messages))
    extension = pb.ChatExtension(chat=prompt, num_known=num_known, is_open=is_open, open_turn=open_turn)
    return pb.ExtendState(state=0, chat=extension)


@pytest.fixture(autouse=True)
def template(deployment: Deployment) -> None:
    deployment.chain.tokenizer.render = render


async def test_a_chat_grows_message_by_message(deployment: Deployment, client: ProgramClient) -> None:
    await client.do(extend=chat(SYSTEM))
    await client.do(extend=chat(SYSTEM, USER, num_known=1, open_turn=True))
    assert deployment.chain.scheduler.program.texts == {0: "<s>be brief</><u>hi</><a>"}


async def test_a_turn_that_the_model_has_taken_is_closed(deployment: Deployment, client: ProgramClient) -> None:
    deployment.chain.backend.reply = lambda prompt, sibling: "ho"
    await client.do(extend=chat(USER, open_turn=True))
    await client.do(generate=gen(0))
    await client.do(extend=chat(USER, ANSWER, MORE, num_known=2, is_open=True, open_turn=True))
    assert deployment.chain.scheduler.program.texts == {0: "<u>hi</><a>ho</><u>so?</><a>"}


async def test_a_turn_is_closed_without_a_further_message(deployment: Deployment, client: ProgramClient) -> None:
    await client.do(extend=chat(USER, open_turn=True))
    await client.do(extend=text(0, "ho"))
    await client.do(extend=chat(USER, ANSWER, num_known=2, is_open=True))
    assert deployment.chain.scheduler.program.texts == {0: "<u>hi</><a>ho</>"}


async def test_a_turn_is_opened_without_a_further_message(deployment: Deployment, client: ProgramClient) -> None:
    await client.do(extend=chat(USER))
    await client.do(extend=chat(USER, num_known=1, open_turn=True))
    assert deployment.chain.scheduler.program.texts == {0: "<u>hi</><a>"}
    # Nothing is added where there is nothing to add.
    assert (await client.do(extend=chat(USER, num_known=1))).changed.length == 11


async def test_a_template_that_drops_earlier_thoughts_has_the_chat_written_anew(
    deployment: Deployment, client: ProgramClient
) -> None:
    deployment.chain.tokenizer.render = render_without_earlier_thoughts
    deployment.chain.backend.reply = lambda prompt, sibling: "[hm]ho"
    await client.do(extend=chat(USER, open_turn=True))
    await client.do(generate=gen(0))
    thoughtful = {"role": "assistant", "content": "[hm]ho"}
    changed = (await client.do(extend=chat(USER, thoughtful, MORE, num_known=2, is_open=True))).changed
    assert deployment.chain.scheduler.program.texts == {0: "<u>hi</><a>ho</><u>so?</>"}
    assert changed.length == 25


@pytest.mark.parametrize(
    ("extension", "said"),
    [
        (chat(USER, num_known=2), "num_known: got 2, accepted is an integer from 0 to 1"),
        (chat(USER, num_known=1), "num_known: got 1, accepted is 0 for a state without tokens"),
        (chat(USER, ANSWER, num_known=1, is_open=True), "is_open"),
        (chat(USER, is_open=True), "is_open"),
        (chat(), "messages: accepted is a JSON array of at least one message"),
        (pb.ExtendState(chat=pb.ChatExtension(chat=gateway_pb2.ChatPrompt(messages_json="{"))), "messages"),
    ],
)
async def test_what_is_no_continuation_of_a_chat_is_refused(
    deployment: Deployment, client: ProgramClient, extension: pb.ExtendState, said: str
) -> None:
    if extension != chat(USER, num_known=1):
        await client.do(extend=text(0, "x"))
    with pytest.raises(CallFailedError, match=said):
        await client.do(extend=extension)


async def test_what_the_template_refuses_is_said(
    deployment: Deployment, client: ProgramClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing: Callable[[tokenizer_pb2.EncodeChatRequest], str] | None = None
    monkeypatch.setattr(deployment.chain.tokenizer, "render", refusing)
    with pytest.raises(CallFailedError, match="no system message, please"):
        await client.do(extend=chat({"role": "system", "content": "raise"}))
