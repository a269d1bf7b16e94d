"""What 32 clients ask at once: chats and completions, greedy and seeded, stop strings, grammars, log probabilities."""

from __future__ import annotations

from typing import Any

from tests.integration.client import Job

NUM_STREAMS = 32

_QUESTIONS = (
    "Tell me a short story about a fox.",
    "Tell me a story about a lighthouse, please.",
    "Hello! Who are you?",
    "Write a story about a clever crow.",
)


def streams(num_tokens: int = 256) -> list[Job]:
    """32 jobs that run for `num_tokens` tokens or as long as their constraint lets them."""
    return [_job(index, num_tokens + 8 * index) for index in range(NUM_STREAMS)]


def latecomers() -> list[Job]:
    """Jobs that arrive while something is down; each needs the tokenizer, half of them the grammar service."""
    indices = range(100, 108)
    return [_constrained(index, f"late{index}", 10) if index % 2 else _chat(index, 40) for index in indices]


def _job(index: int, num_tokens: int) -> Job:
    kind = index % 8
    if kind in (0, 1):
        return _chat(index, num_tokens)
    if kind == 2:
        return _completion(index, num_tokens, temperature=0)
    if kind == 3:
        return _completion(index, num_tokens, temperature=1.0, seed=index, presence_penalty=0.5)
    if kind == 4:
        return _stopped(index, num_tokens)
    if kind == 5:
        return _constrained(index, f"field{index}", 40)
    if kind == 6:
        return _expression(index)
    return _with_logprobs(index, num_tokens)


def _chat(index: int, num_tokens: int, **fields: Any) -> Job:
    body = {
        "messages": [{"role": "user", "content": f"{_QUESTIONS[index % len(_QUESTIONS)]} I am guest {index}."}],
        "temperature": 0.8 if index % 2 else 0,
        "seed": 1000 + index,
        "ignore_eos": True,
        "max_tokens": num_tokens,
        **fields,
    }
    return Job(kind="chat", path="/v1/chat/completions", body=body)


def _completion(index: int, num_tokens: int, **fields: Any) -> Job:
    body = {
        "prompt": f"Number {index}: Once upon a time",
        "ignore_eos": True,
        "max_tokens": num_tokens,
        **fields,
    }
    return Job(kind="completion", path="/v1/completions", body=body)


def _stopped(index: int, num_tokens: int) -> Job:
    # Whatever is sampled, one of these pairs of letters and signs comes up late, most often across a token's border.
    stop = ["z. ", "q, ", "x. T", "k. W"] if index % 16 == 4 else ["zzzz", "\n\n\n\n"]
    fields = {"stop": stop, "temperature": 1.3, "seed": 77 + index}
    return Job(kind="stop strings", path="/v1/chat/completions", body=_chat(index, num_tokens, **fields).body)


def _constrained(index: int, name: str, num_fields: int) -> Job:
    # The names come by jump-forward, several tokens an event: it takes many of them to last as long as the others.
    fields: dict[str, Any] = {f"{name}_{number}": {"type": "integer"} for number in range(num_fields)}
    fields["colour"] = {"enum": ["red", "green", "blue"]}
    schema = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    body = {
        "messages": [{"role": "user", "content": f"Describe order {index} as JSON."}],
        "temperature": 0.4,
        "seed": 500 + index,
        "max_tokens": 300,
        "response_format": {"type": "json_schema", "json_schema": {"name": name, "schema": schema}},
    }
    return Job(kind="JSON schema", path="/v1/chat/completions", body=body)


def _expression(index: int) -> Job:
    fields = {"regex": "([a-z]{2,9}, ){60}end", "temperature": 1.0, "ignore_eos": False}
    return Job(kind="expression", path="/v1/chat/completions", body=_chat(index, 1000, **fields).body)


def _with_logprobs(index: int, num_tokens: int) -> Job:
    if index % 16 == 7:
        job = _chat(index, num_tokens, logprobs=True, top_logprobs=2)
    else:
        job = _completion(index, num_tokens, temperature=0.7, seed=index, logprobs=1)
    return Job(kind="log probabilities", path=job.path, body=job.body)
