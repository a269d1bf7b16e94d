"""Structured output and tool calls by LangChain; prints what came back as JSON."""

from __future__ import annotations

import json
import sys
from functools import reduce
from operator import add
from typing import Any, Literal

from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field


class Order(BaseModel):
    """An order in a bakery."""

    product: Literal["bread", "cake", "roll"]
    pieces: int = Field(ge=1, le=99)
    gift: bool


class Weather(BaseModel):
    """Look up the weather."""

    city: Literal["Bern", "Oslo"]


def structured(llm: ChatOpenAI) -> dict[str, Any]:
    """A typed answer by each of the library's methods, whole and streamed."""
    report: dict[str, Any] = {}
    for method in ("json_schema", "function_calling"):
        typed = llm.with_structured_output(Order, method=method)
        answer = typed.invoke("Describe an order as JSON.")
        *_, last = typed.stream("Describe an order as JSON.")
        assert isinstance(answer, Order) and isinstance(last, Order)
        report[method] = {"whole": answer.model_dump(), "streamed": last.model_dump()}
    free = llm.with_structured_output(method="json_mode", schema=None)
    report["json_mode"] = {"whole": free.invoke("Describe an order as JSON.")}
    return report


def tools(llm: ChatOpenAI) -> dict[str, Any]:
    """Calls that are forced, whole and streamed, and the answer to their result."""
    report: dict[str, Any] = {}
    for choice in ("any", "Weather"):
        bound = llm.bind_tools([Weather], tool_choice=choice, parallel_tool_calls=False)
        whole = bound.invoke("What is the weather in Oslo?")
        chunks: list[AIMessageChunk] = [*bound.stream("What is the weather in Oslo?")]
        summed = reduce(add, chunks)
        report[choice] = {
            "whole": [{"name": call["name"], "args": call["args"]} for call in whole.tool_calls],
            "streamed": [{"name": call["name"], "args": call["args"]} for call in summed.tool_calls],
            "num_chunks": len(chunks),
            "finish_reason": whole.response_metadata["finish_reason"],
        }
    question = HumanMessage("What is the weather in Oslo?")
    result = ToolMessage("sunny", tool_call_id=str(whole.tool_calls[0]["id"]))
    answer = llm.bind_tools([Weather]).invoke([question, whole, result])
    report["after_result"] = {"content": str(answer.content), "calls": len(answer.tool_calls)}
    return report


def main() -> None:
    """Use the server whose URL is the argument."""
    llm = ChatOpenAI(
        base_url=f"{sys.argv[1]}/v1",
        api_key="none",
        model="bough-demo",
        temperature=0.7,
        seed=4,
        max_tokens=300,
        max_retries=0,
    )
    sys.stdout.write(json.dumps({"structured": structured(llm), "tools": tools(llm)}))


if __name__ == "__main__":
    main()
