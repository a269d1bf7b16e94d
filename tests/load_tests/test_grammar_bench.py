"""Requests of the benchmark of structured output, and its table."""

from __future__ import annotations

import itertools
import json

from bough.load import grammar_bench
from bough.load.grammar_bench import OURS, STEP_BY_STEP, report


def test_new_schemas_are_distinct_and_known_ones_the_same() -> None:
    def schemas(source: object, count: int = 20) -> set[str]:
        taken = itertools.islice(source, count)  # type: ignore[call-overload]
        return {json.dumps(request.body["response_format"]["json_schema"]["schema"]) for request in taken}

    assert len(schemas(grammar_bench._people(1))) == 1
    new = schemas(grammar_bench._new(1, max_tokens=4))
    assert len(new) == 20 and not new & schemas(grammar_bench._new(2, max_tokens=4))
    for text in new:
        schema = json.loads(text)
        assert schema["required"] == list(schema["properties"]) and schema["additionalProperties"] is False


def test_prompts_are_the_same_for_the_same_seed() -> None:
    def prompts(seed: int) -> list[str]:
        return [request.body["messages"][0]["content"] for request in itertools.islice(grammar_bench._people(seed), 3)]

    assert prompts(4) == prompts(4) != prompts(5)


def test_the_table_has_the_ratios() -> None:
    values = {
        "free, tokens/s": 100.0,
        "schema, tokens/s": 98.0,
        "others alone: ITL p99, ms": 10.0,
        "others beside new schemas: ITL p99, ms": 11.0,
    }
    text = report({"engines": {OURS: values, STEP_BY_STEP: values | {"schema, tokens/s": 70.0}}})
    assert "0.98 |" in text and "0.70 |" in text and "1.10 |" in text
    assert "jump-forward: 1.40 x" in text
