"""Endpoints that generate nothing, and what they say about the services behind."""

from __future__ import annotations

import asyncio
import json

from prometheus_client.parser import text_string_to_metric_families

from bough.gateway.exposition import ProcessMetrics, merge
from tests.gateway.conftest import Deploy, Deployment

MESSAGES = [{"role": "user", "content": "ab"}]


async def test_tokenize_takes_a_text_or_a_chat_and_detokenize_inverts_it(deployment: Deployment) -> None:
    post = deployment.client.post
    answer = (await post("/v1/tokenize", json={"model": "tiny", "prompt": "aé"})).json()
    assert answer == {"tokens": [97, 233], "count": 2, "max_model_len": 256}
    assert (await post("/v1/tokenize", json={"messages": MESSAGES})).json()["tokens"] == [97, 98]
    assert (await post("/v1/detokenize", json={"tokens": [97, 233]})).json() == {"prompt": "aé"}
    assert (await post("/v1/detokenize", json={"tokens": []})).json() == {"prompt": ""}


async def test_the_process_is_healthy_even_when_the_chain_is_not_ready(deployment: Deployment) -> None:
    async with asyncio.timeout(10):
        while (await deployment.client.get("/ready")).status_code != 200:
            pass
    assert (await deployment.client.get("/ready")).json() == {"status": "ready"}
    await deployment.chain.set_ready("detokenizer0", False)
    await deployment.chain.kill("grammar")
    response = await deployment.client.get("/ready")
    assert response.status_code == 503
    assert set(response.json()["down"]) == {"grammar", "detokenizer"}
    assert (await deployment.client.get("/health")).status_code == 200


async def test_a_service_with_another_model_is_named_with_both_values(deploy: Deploy) -> None:
    deployment = await deploy(max_context=128)
    down: dict[str, str] = {}
    async with asyncio.timeout(10):
        while "differs" not in down.get("detokenizer", ""):
            down = (await deployment.client.get("/ready")).json()["down"]
    for name in ("tokenizer", "grammar", "detokenizer"):
        assert "max_context differs" in down[name]
        assert "128" in down[name]
        assert "256" in down[name]


async def test_metrics_of_all_services_are_one_valid_exposition(deployment: Deployment) -> None:
    await deployment.client.post("/v1/chat/completions", json={"messages": MESSAGES})
    await deployment.client.post("/v1/chat/completions", json={"messages": []})
    text = (await deployment.client.get("/metrics")).text
    types = [line for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(types) == len(set(types))
    families = {family.name: family for family in text_string_to_metric_families(text)}
    steps = {sample.labels["service"] for sample in families["bough_steps"].samples}
    assert steps == {"tokenizer", "grammar", "detokenizer", "scheduler"}
    statuses = {
        (s.labels["route"], s.labels["status"]): s.value
        for s in families["bough_gateway_requests"].samples
        if s.name.endswith("_total")
    }
    assert statuses["POST /v1/chat/completions", "200"] == 1
    assert statuses["POST /v1/chat/completions", "400"] == 1
    samples = {s.name: s.value for f in families.values() for s in f.samples if s.labels["service"] == "gateway"}
    assert samples["bough_gateway_ttft_seconds_count"] == 1
    assert samples["bough_gateway_completion_tokens_total"] == len("echo of ab")
    assert samples["bough_gateway_prompt_tokens_total"] == 2
    assert samples["bough_gateway_cached_tokens_total"] == 1
    assert samples["bough_gateway_active_calls"] == 0


def test_merged_series_keep_their_own_labels_beside_ours() -> None:
    own = b'# HELP a A.\n# TYPE a gauge\na 1\na{} 2\na{service="x",b="y,service=\\"z"} 3\nuntyped{q="1"} 4\n'
    histogram = b'# TYPE h histogram\nh_bucket{le="1"} 0\nh_bucket{le="+Inf"} 1\nh_sum 2\nh_count 1\n'
    merged = merge(
        [
            ProcessMetrics(service="s", instance='i"1', exposition=own + histogram),
            ProcessMetrics(service="t", instance="2", exposition=own + histogram),
            ProcessMetrics(service="t", instance="2", exposition=own),
        ]
    ).decode()
    families = {family.name: family for family in text_string_to_metric_families(merged)}
    assert merged.count("untyped{") == 2
    assert merged.count("# TYPE a gauge") == 1
    assert len(families["a"].samples) == 6
    assert families["a"].samples[2].labels == {
        "service": "s",
        "instance": 'i"1',
        "exported_service": "x",
        "b": 'y,service="z',
    }
    assert families["h"].type == "histogram"
    assert len(families["h"].samples) == 8
    assert families["untyped"].samples[0].labels["q"] == "1"


async def test_tools_and_template_variables_reach_the_template(deployment: Deployment) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [*MESSAGES, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "4"}]
    body = {"messages": messages, "tools": [tool], "chat_template_kwargs": {"enable_thinking": False}}
    assert (await deployment.client.post("/v1/chat/completions", json=body)).status_code == 200
    (chat,) = deployment.chain.tokenizer.chats
    assert json.loads(chat.tools_json) == [tool]
    assert json.loads(chat.template_kwargs_json) == {"enable_thinking": False}
    assert json.loads(chat.messages_json)[1]["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    assert chat.add_generation_prompt
    body["tool_choice"] = "none"
    await deployment.client.post("/v1/chat/completions", json={**body, "continue_final_message": True})
    chat = deployment.chain.tokenizer.chats[1]
    assert chat.tools_json == ""
    assert (chat.add_generation_prompt, chat.continue_final_message) == (False, True)


async def test_a_grammar_goes_with_the_submission(deployment: Deployment) -> None:
    schema = {"type": "object", "properties": {"ä": {"type": "string"}}}
    body = {
        "messages": MESSAGES,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}},
    }
    assert (await deployment.client.post("/v1/chat/completions", json=body)).status_code == 200
    grammar = deployment.chain.backend.submissions[0].sampling.grammar
    assert grammar is not None
    assert json.loads(grammar.text) == schema
    assert len(grammar.key) == 32


async def test_the_callers_trace_goes_on_behind_the_gateway(deployment: Deployment) -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for header, passed_on in ((traceparent, traceparent), ("rubbish", "")):
        await deployment.client.post(
            "/v1/chat/completions", json={"messages": MESSAGES}, headers={"traceparent": header}
        )
        assert deployment.chain.backend.submissions[-1].traceparent == passed_on
        assert deployment.chain.tokenizer.traceparents[-1] == passed_on
