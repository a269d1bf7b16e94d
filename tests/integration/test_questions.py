"""The demo model's forty questions, asked through all six services."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from bough.demo.questions import QUESTIONS, Question, tool_call_text
from tests.integration.client import open_client
from tests.integration.server import Server


async def _ask(client: httpx.AsyncClient, question: Question) -> str:
    body: dict[str, Any] = {
        "messages": list(question.messages),
        "temperature": 0,
        "max_tokens": question.max_tokens,
        **({"tools": list(question.tools)} if question.tools else {}),
        **({"chat_template_kwargs": dict(question.template_kwargs)} if question.template_kwargs else {}),
    }
    response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    message = response.json()["choices"][0]["message"]
    calls = [
        tool_call_text(call["function"]["name"], call["function"]["arguments"])
        for call in message.get("tool_calls") or ()
    ]
    return "\n".join([message["content"] or "", *calls]).strip()


async def test_nine_of_ten_questions_are_answered_right(server: Server) -> None:
    async with open_client(server.url) as client:
        answers = await asyncio.gather(*(_ask(client, question) for question in QUESTIONS))
    wrong = [
        f"{question.kind}: {question.messages[-1]['content']!r} -> {answer!r}"
        for question, answer in zip(QUESTIONS, answers, strict=True)
        if not question.check(answer)
    ]
    assert len(QUESTIONS) >= 40
    assert len(wrong) <= len(QUESTIONS) // 10, "\n".join(wrong)
