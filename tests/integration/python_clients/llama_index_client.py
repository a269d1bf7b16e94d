"""Structured output and tool calls by LlamaIndex; prints what came back as JSON."""

import json
import sys
from typing import Any, Literal

from llama_index.core.program import FunctionCallingProgram
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, Field

QUESTION = "Describe an order as JSON."


class Order(BaseModel):
    """An order in a bakery."""

    product: Literal["bread", "cake", "roll"]
    pieces: int = Field(ge=1, le=99)
    gift: bool


def weather(city: Literal["Bern", "Oslo"]) -> str:
    """Look up the weather."""
    return f"sunny in {city}"


def by_format(llm: OpenAILike) -> dict[str, Any]:
    """A typed answer by response_format, whole and streamed."""
    prompt = PromptTemplate(QUESTION)
    whole = llm.structured_predict(Order, prompt)
    *_, last = llm.stream_structured_predict(Order, prompt)
    return {"whole": whole.model_dump(), "streamed": last.model_dump()}


def by_call(llm: OpenAILike) -> dict[str, Any]:
    """A typed answer by a call, whole and streamed."""
    whole = llm.structured_predict(Order, PromptTemplate(QUESTION))
    # Of its own the library leaves it to the model whether it calls, where it streams.
    program = FunctionCallingProgram.from_defaults(Order, prompt_template_str=QUESTION, llm=llm, tool_choice="required")
    *_, last = program.stream_call()
    return {"whole": whole.model_dump(), "streamed": last.model_dump()}


def tools(llm: OpenAILike) -> dict[str, Any]:
    """A call that is forced, whole and streamed, and one that is made and answered."""
    tool = FunctionTool.from_defaults(weather)
    question = "What is the weather in Oslo?"
    whole = llm.chat_with_tools([tool], question, tool_required=True)
    *_, last = llm.stream_chat_with_tools([tool], question, tool_required=True)
    results = llm.predict_and_call([tool], question, tool_required=True)
    return {
        "whole": [call.tool_kwargs for call in llm.get_tool_calls_from_response(whole)],
        "streamed": [call.tool_kwargs for call in llm.get_tool_calls_from_response(last)],
        "called": str(results.response),
    }


def main() -> None:
    """Use the server whose URL is the argument."""
    settings: dict[str, Any] = {
        "model": "bough-demo",
        "api_base": f"{sys.argv[1]}/v1",
        "api_key": "none",
        "is_chat_model": True,
        "is_function_calling_model": True,
        "context_window": 2048,
        "max_tokens": 300,
        "temperature": 0.7,
        "max_retries": 0,
        "additional_kwargs": {"seed": 4},
    }
    calling = OpenAILike(**settings)
    formatted = OpenAILike(**settings, should_use_structured_outputs=True)
    report = {"by_call": by_call(calling), "by_format": by_format(formatted), "tools": tools(calling)}
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main()
