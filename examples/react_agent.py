"""A ReAct agent: the model calls tools, reads what they give, and answers, for as long as it wants.

Shows a loop in plain Python around a state, and that each step computes only what is new.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from bough.lang import State, assistant, function, gen, system, user
from counts import counted

WEATHER = {"Reykjavik": {"temperature": 4, "condition": "windy"}, "Athens": {"temperature": 31, "condition": "sunny"}}
POPULATIONS = {"Athens": 643000, "Oslo": 717000}
TOOLS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "get_weather": ("Get the current weather in a city", lambda city: WEATHER[city]),
    "get_population": ("Get the population of a city", lambda city: {"population": POPULATIONS[city]}),
}
MOST_STEPS = 4
CALL = re.compile(r"<tool_call>\n(.*?)\n</tool_call>", re.DOTALL)


def explained() -> str:
    """The tools, as the chat template of the model shows them."""
    city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [{"name": name, "description": about, "parameters": city} for name, (about, _) in TOOLS.items()]
    return (
        "These tools can be called, one JSON schema a line:\n<tools>\n"
        + "\n".join(json.dumps({"type": "function", "function": tool}) for tool in tools)
        + "\n</tools>\n\nA call is one JSON object with the tool's name and its arguments:\n"
        + '<tool_call>\n{"name": "...", "arguments": {...}}\n</tool_call>'
    )


def act(call: dict[str, Any]) -> str:
    """What a tool gives."""
    name, city = call["name"], call["arguments"]["city"]
    seen = json.dumps(TOOLS[name][1](city))
    print(f"  {name}({city}) -> {seen}")
    return seen


@function
def agent(s: State, questions: tuple[str, ...]) -> None:
    """Answer questions one after the other, with as many calls of tools as each needs."""
    s += system(explained())
    for question in questions:
        print(f"> {question}")
        s += user(question)
        for _ in range(MOST_STEPS):
            s += assistant(gen("step", max_tokens=96))
            calls = [json.loads(call) for call in CALL.findall(s["step"])]
            if not calls:
                break
            s += user("\n".join(f"<tool_response>\n{act(call)}\n</tool_response>" for call in calls))
        print(s["step"])


if __name__ == "__main__":
    with counted():
        agent.run(("What is the weather in Reykjavik?", "What is the population of Athens?"), temperature=0.0)
