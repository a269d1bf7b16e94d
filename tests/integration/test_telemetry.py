"""One trace a request over all services, and what `/metrics` tells of all of them."""

from __future__ import annotations

import secrets

import pytest

from tests.integration.collector import Collector
from tests.integration.server import Server, wait_until

EXPECTED = {
    ("bough-gateway", "HTTP POST /v1/chat/completions"),
    ("bough-tokenizer", "tokenize"),
    ("bough-detokenizer", "detokenize"),
    ("bough-scheduler", "schedule"),
    ("bough-executor", "execute"),
    ("bough-grammar", "compile grammar"),
}


def test_a_request_is_one_trace_below_the_clients_span(server: Server, collector: Collector) -> None:
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    response = server.client.post(
        "/v1/chat/completions",
        json={
            "messages": [{"role": "user", "content": "Hello!"}],
            "max_tokens": 16,
            # Never compiled before, since what is found compiled has no span.
            "regex": f"(yes|no|{secrets.token_hex(4)}).{{1,9}}",
        },
        headers={"traceparent": f"00-{trace_id}-{span_id}-01"},
    )
    assert response.status_code == 200, response.text
    wait_until(
        lambda: {(span.service, span.name) for span in collector.spans(trace_id)} >= EXPECTED,
        f"spans of all services, not only {[(s.service, s.name) for s in collector.spans(trace_id)]}",
    )
    spans = {span.name: span for span in collector.spans(trace_id)}
    root = spans["HTTP POST /v1/chat/completions"]
    assert root.parent_id == span_id
    ids = {span.span_id for span in spans.values()}
    assert [span for span in spans.values() if span is not root and span.parent_id not in ids] == []
    assert spans["schedule"].events[:3] == ("queued", "admitted", "first token")
    assert {"prompt_tokens", "cached_tokens", "produced_tokens"} <= spans["execute"].attributes


@pytest.mark.parametrize(
    ("name", "service"),
    [
        ("bough_gateway_ttft_seconds_count", "gateway"),
        ("bough_gateway_inter_token_seconds_count", "gateway"),
        ("bough_scheduler_queue_length", "scheduler"),
        ("bough_scheduler_queue_time_seconds_count", "scheduler"),
        ("bough_batch_rows", "executor"),
        ("bough_kv_pages", "executor"),
        ("bough_prompt_tokens_total", "executor"),
        ("bough_cached_tokens_total", "executor"),
        ("bough_step_seconds_count", "executor"),
        ("bough_tokenizer_tokens_total", "tokenizer"),
        ("bough_detokenizer_tokens_total", "detokenizer"),
        ("bough_grammar_compiles_total", "grammar"),
    ],
)
def test_metrics_of_all_services_are_in_one_exposition(name: str, service: str, server: Server) -> None:
    server.post("/v1/completions", prompt="Hello", max_tokens=3, regex="[a-c]+")
    assert server.metrics().total(name, service=service) >= 0


def test_pages_are_used_cached_or_free(server: Server) -> None:
    server.post("/v1/completions", prompt="Hello " * 40, max_tokens=3)
    server.wait_idle()
    metrics = server.metrics()
    pages = {state: metrics.total("bough_kv_pages", state=state) for state in ("used", "cached", "free")}
    assert pages["used"] == 0 and pages["cached"] > 0 and pages["free"] > 0
