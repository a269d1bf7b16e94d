"""Structured output by instructor in each of its modes for such servers; prints what came back as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any, Literal

import instructor
import openai
from pydantic import BaseModel, Field


class Order(BaseModel):
    """An order in a bakery."""

    product: Literal["bread", "cake", "roll"]
    pieces: int = Field(ge=1, le=99)
    gift: bool


def main() -> None:
    """Use the server whose URL is the argument."""
    report: dict[str, Any] = {}
    modes = {"tools": instructor.Mode.TOOLS, "json_schema": instructor.Mode.JSON_SCHEMA}
    for name, mode in modes.items():
        raw = openai.OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none", max_retries=0)
        client = instructor.from_openai(raw, mode=mode)
        wanted: dict[str, Any] = {
            "model": "bough-demo",
            "messages": [{"role": "user", "content": "Describe an order as JSON."}],
            "max_tokens": 300,
            "temperature": 0.7,
            "seed": 4,
            "max_retries": 0,
        }
        whole = client.chat.completions.create(response_model=Order, **wanted)
        partials = [*client.chat.completions.create_partial(response_model=Order, **wanted)]
        report[name] = {
            "whole": whole.model_dump(),
            "streamed": partials[-1].model_dump(),
            "num_partials": len(partials),
        }
        if mode is instructor.Mode.TOOLS:
            several = client.chat.completions.create(response_model=Iterable[Order], **wanted)
            report["iterable"] = [order.model_dump() for order in several]
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main()
