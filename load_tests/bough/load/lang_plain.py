"""The programs of `lang_programs`, written by hand over OpenAI's API, as one who knows that API well writes them.

Independent calls run side by side, continuations of one prompt are one call with `n`, connections are kept, nothing is
streamed. Every call sends its whole prompt: there is no other way in this API.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any

import httpx

from bough.load.lang_programs import ACTION_TOKENS, ANSWER_TOKENS, CHOICES, RECORD_TOKENS, SCHEMA, WORTH_TOKENS, Task

_TIMEOUT_S = 300.0


class Api:
    """A server with OpenAI's API; an async context manager.

    Args:
        base_url: `http://HOST:PORT`.
        model: The served model's name.
        is_ours: It takes our names of what goes beyond that API; else vLLM's.
    """

    def __init__(self, base_url: str, model: str, *, is_ours: bool) -> None:
        self._model = model
        self._is_ours = is_ours
        self.client = httpx.AsyncClient(
            base_url=base_url, limits=httpx.Limits(max_connections=None), timeout=_TIMEOUT_S, trust_env=False
        )

    async def __aenter__(self) -> Api:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.aclose()

    async def complete(self, prompt: str, max_tokens: int, **options: Any) -> str:
        """What follows a prompt."""
        return str((await self._completion(prompt, max_tokens, **options))[0]["text"])

    async def complete_n(self, prompt: str, max_tokens: int, n: int, **options: Any) -> list[str]:
        """Several continuations of a prompt."""
        return [str(choice["text"]) for choice in await self._completion(prompt, max_tokens, n=n, **options)]

    async def chat(self, messages: list[dict[str, str]], max_tokens: int) -> str:
        """The assistant's next turn."""
        body = {"messages": messages, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
        return str((await self._post("/v1/chat/completions", body))[0]["message"]["content"])

    async def score(self, prompt: str, choice: str) -> float:
        """Mean log probability of a text behind a prompt: of a call that is held to it."""
        held = {"choice": [choice]} if self._is_ours else {"structured_outputs": {"choice": [choice]}}
        found = await self._completion(prompt, len(choice), logprobs=0, ignore_eos=False, **held)
        logprobs, tokens = found[0]["logprobs"]["token_logprobs"], found[0]["logprobs"]["tokens"]
        # Some servers also tell of the token that ends the text.
        count = len(tokens) if "".join(tokens) == choice else len(tokens) - 1
        return float(sum(logprobs[:count]) / count)

    async def record(self, prompt: str, max_tokens: int) -> dict[str, Any]:
        """What follows a prompt, as a JSON object under the schema."""
        schema = {"type": "json_schema", "json_schema": {"name": "record", "schema": SCHEMA, "strict": True}}
        held = {"response_format": schema} if self._is_ours else {"structured_outputs": {"json": SCHEMA}}
        record: dict[str, Any] = json.loads(await self.complete(prompt, max_tokens, ignore_eos=False, **held))
        return record

    async def _completion(self, prompt: str, max_tokens: int, **options: Any) -> list[dict[str, Any]]:
        body = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True, **options}
        return await self._post("/v1/completions", body)

    async def _post(self, path: str, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        response = await self.client.post(path, json={"model": self._model, **body})
        if response.status_code != 200:
            raise ValueError(f"{path}: {response.status_code} {response.text[:500]}")
        choices: list[dict[str, Any]] = response.json()["choices"]
        return choices


async def multi_turn(api: Api, task: Task) -> str:
    """A chat about a text."""
    messages = [{"role": "system", "content": task.context}]
    answer = ""
    for turn in task.turns:
        messages.append({"role": "user", "content": turn})
        answer = await api.chat(messages, task.sizes.tokens)
        messages.append({"role": "assistant", "content": answer})
    return answer


async def tree_search(api: Api, task: Task) -> str:
    """Ideas, each with what it is worth; the best one of a level goes on."""

    async def idea(prompt: str, number: int) -> tuple[str, str]:
        text = f"{prompt}\nIdea {number + 1}:"
        text += await api.complete(text, task.sizes.tokens) + "\nWorth:"
        worth = await api.complete(text, WORTH_TOKENS)
        return worth, text + worth

    best = task.context
    for _ in range(task.sizes.depth):
        ideas = await asyncio.gather(*(idea(best, number) for number in range(task.sizes.tree_branches)))
        best = max(ideas, key=lambda found: found[0])[1]
    return await api.complete(best + "\nSolution:", task.sizes.tokens)


async def self_consistency(api: Api, task: Task) -> str:
    """Several ways to an answer; the answer that most of them have."""
    ways = await api.complete_n(task.context, task.sizes.tokens, task.sizes.branches, temperature=1.0)
    prompts = (f"{task.context}{way}\nSo the answer is" for way in ways)
    answers = await asyncio.gather(*(api.complete(prompt, ANSWER_TOKENS) for prompt in prompts))
    return Counter(answers).most_common(1)[0][0]


async def few_shot_select(api: Api, task: Task) -> str:
    """A question behind examples, answered by the likeliest of some texts."""
    prompt = f"{task.shared}\nQuestion: {task.turns[0]}\nAnswer:"
    scores = await asyncio.gather(*(api.score(prompt, choice) for choice in CHOICES))
    return CHOICES[scores.index(max(scores))]


async def agent(api: Api, task: Task) -> str:
    """Thoughts, and what a tool says to each action."""
    prompt = f"{task.shared}\nQuestion: {task.turns[0]}"
    for observation in task.turns[1:]:
        prompt += "\nThought:"
        prompt += await api.complete(prompt, task.sizes.tokens)
        prompt += "\nAction:"
        prompt += await api.complete(prompt, ACTION_TOKENS)
        prompt += f"\nObservation: {observation}"
    return await api.complete(prompt + "\nAnswer:", ANSWER_TOKENS)


async def extraction(api: Api, task: Task) -> str:
    """A record of what a text says."""
    return json.dumps(await api.record(f"{task.context}\nAs JSON: ", RECORD_TOKENS))


BY_HAND: Mapping[str, Callable[[Api, Task], Awaitable[str]]] = {
    "multi-turn chat": multi_turn,
    "tree search": tree_search,
    "self-consistency": self_consistency,
    "few-shot select": few_shot_select,
    "agent": agent,
    "JSON": extraction,
}
"""By the names of the cases."""
