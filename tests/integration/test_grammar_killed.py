"""The grammar service killed under 32 constrained streams: all finish, and all fit their schemas."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from typing import Any

import jsonschema
import pytest

from tests.integration.client import Job, stream_all
from tests.integration.server import Server

CHAT = "/v1/chat/completions"
EXPRESSION = "(red|green|blue)(-[0-9]{4}){2,6}"
NUM_STREAMS = 32
KILL_AFTER_EVENTS = 3 * NUM_STREAMS


def schema_of(number: int) -> dict[str, Any]:
    """Distinct ones, so that each has to be compiled."""
    name = f"name_of_number_{number}"
    return {
        "type": "object",
        "properties": {
            name: {"type": "string", "maxLength": 20},
            "kind": {"enum": ["tree", "leaf", f"branch {number}"]},
            "sizes": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 6},
        },
        "required": [name, "kind", "sizes"],
        "additionalProperties": False,
    }


def job(number: int) -> Job:
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": f"Describe number {number}."}],
        "max_tokens": 400,
        "temperature": 1.0,
        "seed": number,
    }
    if number % 4 == 3:
        return Job(kind="regex", path=CHAT, body={**body, "regex": EXPRESSION})
    wanted = {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema_of(number)}}
    return Job(kind="schema", path=CHAT, body={**body, "response_format": wanted})


@pytest.mark.parametrize("seed", [0, 1000])
def test_constrained_streams_outlive_the_grammar_service_and_fit(server: Server, seed: int) -> None:
    events = itertools.count(1)

    def kill_once_all_are_under_way() -> None:
        if next(events) == KILL_AFTER_EVENTS:
            server.kill("grammar")

    jobs = [job(seed + number) for number in range(NUM_STREAMS)]
    outcomes = asyncio.run(stream_all(server.url, jobs, kill_once_all_are_under_way))
    assert next(events) > KILL_AFTER_EVENTS
    for number, outcome in enumerate(outcomes, seed):
        assert outcome.whole, outcome
        assert outcome.finish_reason == "stop"
        if number % 4 == 3:
            assert re.fullmatch(EXPRESSION, outcome.text)
        else:
            jsonschema.validate(json.loads(outcome.text), schema_of(number))
    server.wait_ready()
    server.wait_idle()
