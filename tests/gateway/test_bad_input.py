"""What clients get wrong: a 4xx that names the field, its value and what is accepted, and nothing in the log."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.conftest import Deploy, Deployment

CHAT = "/v1/chat/completions"
COMPLETION = "/v1/completions"
MESSAGES = [{"role": "user", "content": "x"}]


@pytest.fixture(autouse=True)
def nothing_logged_as_a_crash(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.WARNING)
    yield
    ours = [record for record in caplog.records if record.name.startswith(("bough.gateway", "uvicorn", "asyncio"))]
    assert not [record.getMessage() for record in ours if record.levelno >= logging.ERROR]


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


BAD_FIELDS: list[tuple[str, Any, str]] = [
    ("temperature", -0.5, "-0.5, accepted is a finite number from 0"),
    ("temperature", "hot", '"hot", accepted is a finite number'),
    ("temperature", True, "true, accepted is a finite number"),
    ("top_p", 0, "0.0, accepted is a number above 0, at most 1"),
    ("top_p", 1.5, "1.5"),
    ("top_k", -2, "-2, accepted is an integer from 1, or 0 or -1 for all"),
    ("top_k", 1.5, "1.5"),
    ("min_p", 2, "2.0"),
    ("n", 0, "0, accepted is an integer from 1 to 128"),
    ("n", 129, "129"),
    ("n", True, "true"),
    ("n", "1", '"1"'),
    ("max_tokens", 0, "0, accepted is an integer from 1"),
    ("max_tokens", 16.0, "16.0"),
    ("min_tokens", -1, "-1"),
    ("seed", 1 << 64, str(1 << 64)),
    ("presence_penalty", 2.5, "2.5, accepted is a number from -2 to 2"),
    ("frequency_penalty", -3, "-3"),
    ("repetition_penalty", 0, "0.0"),
    ("stop", "", '""'),
    ("stop", ["a"] * 33, "at most 32 strings"),
    ("stop", [1], "[1]"),
    ("stop", 5, "5"),
    ("stop_token_ids", [70_000], "70000, accepted is token ids from 0 to 69999"),
    ("stop_token_ids", "7", '"7"'),
    ("logit_bias", {"x": 1}, '{"x": 1.0}'),
    ("logit_bias", {"70000": 1}, "70000"),
    ("logit_bias", {"5": 101}, "from -100 to 100"),
    ("logit_bias", {"5": "much"}, '"much"'),
    ("logit_bias", [1], "[1]"),
    ("model", 5, "5"),
    ("stream", "yes", '"yes"'),
    ("max_token", 5, "unknown field with value 5; did you mean max_tokens?"),
    ("stream_options", {"include_usage": 1}, "1"),
    ("response_format", {"type": "xml"}, '"xml"'),
    ("response_format", {"type": "json_schema"}, "a JSON schema"),
    ("response_format", {"type": "json_schema", "json_schema": {"schema": {"type": "bad"}}}, "is unknown"),
    ("regex", "bad(", "is unknown"),
]


@pytest.mark.parametrize("path", [CHAT, COMPLETION])
@pytest.mark.parametrize(("field", "value", "said"), BAD_FIELDS)
async def test_a_wrong_value_is_named_with_what_is_accepted(
    deployment: Deployment, path: str, field: str, value: Any, said: str
) -> None:
    prompt = {"messages": MESSAGES} if path == CHAT else {"prompt": "x"}
    error = error_of(await deployment.client.post(path, json={**prompt, field: value}), 400)
    assert error["type"] == "invalid_request_error"
    assert str(error["param"]).startswith(field)
    assert field in error["message"]
    assert said in error["message"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (COMPLETION, {"prompt": "x", "suffix": "y"}, "suffix"),
        (COMPLETION, {"prompt": "x", "best_of": 2}, "best_of"),
        (COMPLETION, {"prompt": "x", "echo": True, "logprobs": 1}, "logprobs"),
        (COMPLETION, {"prompt": "x", "logprobs": 21}, "logprobs"),
        (COMPLETION, {"prompt": "x", "min_tokens": 5, "max_tokens": 4}, "min_tokens"),
        (COMPLETION, {"prompt": "x", "min_tokens": 17}, "min_tokens"),
        (COMPLETION, {"prompt": "x", "regex": "a", "response_format": {"type": "json_object"}}, "regex"),
        (COMPLETION, {}, "prompt"),
        (COMPLETION, {"prompt": ""}, "prompt"),
        (COMPLETION, {"prompt": []}, "prompt"),
        (COMPLETION, {"prompt": [True]}, "prompt"),
        (COMPLETION, {"prompt": [-1]}, "prompt"),
        (COMPLETION, {"prompt": [70_000]}, "prompt"),
        (COMPLETION, {"prompt": ["a", 1]}, "prompt"),
        (COMPLETION, {"prompt": [[1], []]}, "prompt"),
        (COMPLETION, {"prompt": {"text": "x"}}, "prompt"),
        (COMPLETION, {"prompt": ["a"] * 1025}, "prompt"),
        (COMPLETION, {"prompt": ["a"] * 100, "n": 100}, "n"),
        (CHAT, {"messages": []}, "messages"),
        (CHAT, {"messages": "hi"}, "messages"),
        (CHAT, {"messages": [{"content": "x"}]}, "messages[0].role"),
        (CHAT, {"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        (CHAT, {"messages": [{"role": "user", "content": "raise"}]}, "messages"),
        (CHAT, {"messages": MESSAGES, "top_logprobs": 3}, "top_logprobs"),
        (CHAT, {"messages": MESSAGES, "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        (CHAT, {"messages": MESSAGES, "logprobs": 1}, "logprobs"),
        (CHAT, {"messages": MESSAGES, "tool_choice": "required"}, "tool_choice"),
        (CHAT, {"messages": MESSAGES, "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        (CHAT, {"messages": MESSAGES, "tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        (CHAT, {"messages": MESSAGES, "max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        (CHAT, {"messages": MESSAGES, "max_completion_tokens": 0}, "max_completion_tokens"),
        (CHAT, {"messages": MESSAGES, "functions": []}, "functions"),
        (
            CHAT,
            {"messages": MESSAGES, "continue_final_message": True, "add_generation_prompt": True},
            "continue_final_message",
        ),
        ("/v1/tokenize", {}, "prompt"),
        ("/v1/tokenize", {"prompt": "x", "messages": MESSAGES}, "prompt"),
        ("/v1/detokenize", {"tokens": [70_000]}, "tokens"),
        ("/v1/detokenize", {"tokens": ["1"]}, "tokens[0]"),
    ],
)
async def test_contradictions_and_what_is_not_served_are_refused(
    deployment: Deployment, path: str, body: dict[str, Any], param: str
) -> None:
    error = error_of(await deployment.client.post(path, json=body), 400)
    assert error["param"] == param


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"prompt": "x", "temperature": NaN}',
        b'{"prompt": "x", "temperature": Infinity}',
        b'{"prompt": "x", "temperature": -Infinity}',
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud800"}',
        b"[" * 100_000,
        b'{"prompt": ' + b"[" * 300 + b"]" * 300 + b"}",
        b"[1]",
        b'"prompt"',
        b"null",
    ],
)
async def test_a_body_that_is_no_json_object_is_refused(deployment: Deployment, body: bytes) -> None:
    error = error_of(await deployment.client.post(COMPLETION, content=body), 400)
    assert "body" in error["message"]
    assert len(error["message"]) < 300


async def test_a_number_beyond_all_floats_is_refused_wherever_it_stands(deployment: Deployment) -> None:
    body = b'{"prompt": "x", "temperature": 1e999}'
    assert error_of(await deployment.client.post(COMPLETION, content=body), 400)["param"] == "temperature"
    body = b'{"messages": [{"role": "user", "content": "x", "weight": 1e999}]}'
    assert error_of(await deployment.client.post(CHAT, content=body), 400)["param"] == "messages"


async def test_an_unknown_model_is_404_and_named(deployment: Deployment) -> None:
    error = error_of(await deployment.client.post(CHAT, json={"model": "gpt", "messages": MESSAGES}), 404)
    assert error["code"] == "model_not_found"
    assert "'gpt'" in error["message"]
    assert "'tiny'" in error["message"]


async def test_a_prompt_beyond_the_context_is_refused_with_the_numbers(deployment: Deployment) -> None:
    error = error_of(await deployment.client.post(COMPLETION, json={"prompt": "x" * 256}), 400)
    assert error["code"] == "context_length_exceeded"
    assert "256 tokens" in error["message"]
    body = {"messages": [{"role": "user", "content": "x" * 200}], "max_completion_tokens": 57}
    error = error_of(await deployment.client.post(CHAT, json=body), 400)
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "max_completion_tokens"
    assert "at most 56" in error["message"]
    assert deployment.chain.backend.submissions == []


async def test_unknown_paths_and_methods_are_answered_in_the_same_shape(deployment: Deployment) -> None:
    error_of(await deployment.client.get("/v2/models"), 404)
    error_of(await deployment.client.get(CHAT), 405)


async def test_fields_of_openais_platform_are_taken_silently(deployment: Deployment) -> None:
    body = {
        "messages": [{"role": "developer", "content": [{"type": "text", "text": "x"}]}],
        "user": "me",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "parallel_tool_calls": True,
        "top_p": None,
        "modalities": ["text"],
    }
    response = await deployment.client.post(CHAT, json=body)
    assert response.status_code == 200, response.text


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
async def test_a_hundred_megabytes_are_refused_without_being_kept(deployment: Deployment) -> None:
    before = resident_bytes()
    peak = before
    size = 100 * 1024 * 1024

    async def body() -> Any:
        nonlocal peak
        for _ in range(size // 65536):
            yield b" " * 65536
            peak = max(peak, resident_bytes())

    for headers in ({"content-length": str(size)}, {}):  # known beforehand, and chunked
        error = error_of(await deployment.client.post(COMPLETION, content=body(), headers=headers), 413)
        assert "accepted are at most 16777216 bytes" in error["message"]
    assert peak - before < 64 * 1024 * 1024


async def test_the_limit_of_bodies_is_a_setting(deploy: Deploy) -> None:
    deployment = await deploy(max_body_mb=0.001)
    error_of(await deployment.client.post(COMPLETION, json={"prompt": "x" * 2000}), 413)
    assert (await deployment.client.post(COMPLETION, json={"prompt": "x" * 100})).status_code == 200


async def test_a_large_body_is_parsed_like_a_small_one(deployment: Deployment) -> None:
    body = {"prompt": "x", "user": "y" * 1_000_000}
    assert (await deployment.client.post(COMPLETION, json=body)).status_code == 200
    error_of(await deployment.client.post(COMPLETION, json={**body, "n": 0}), 400)


async def test_rubbish_instead_of_http_leaves_the_gateway_well(deployment: Deployment) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", deployment.service.gateway.http_port)
    writer.write(b"\x16\x03\x01 rubbish\r\n\r\n")
    await writer.drain()
    assert b"400" in await reader.readline()
    writer.close()
    await writer.wait_closed()
    assert (await deployment.client.get("/health")).status_code == 200


async def test_only_the_key_opens_the_api(deploy: Deploy) -> None:
    deployment = await deploy(api_key="secret")
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "secret"}):
        error = error_of(await deployment.client.post(CHAT, json={"messages": MESSAGES}, headers=headers), 401)
        assert error["code"] == "invalid_api_key"
        assert "secret" not in json.dumps(error)
    good = {"authorization": "Bearer secret"}
    assert (await deployment.client.post(CHAT, json={"messages": MESSAGES}, headers=good)).status_code == 200
    assert (await deployment.client.get("/v1/models")).status_code == 401
    for path in ("/health", "/metrics"):
        assert (await deployment.client.get(path)).status_code == 200
