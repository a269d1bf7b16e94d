"""Forty questions that the demo model has never seen, each with a check of the answer's meaning.

Their content (operands, names, lists, records, phrasings of a fact) lies on the held-out side of the corpus' split, so
that no training run can have produced it. The list imports neither torch nor transformers: tests use it on the bare
checkpoint and through a running server alike.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bough.demo.corpus.base import normalise

__all__ = ["QUESTIONS", "Question", "answer_of", "tool_call_text"]

Check = Callable[[str], bool]
Message = Mapping[str, Any]

_TOOL_CALL = re.compile(r"<tool_call>\n(.*?)\n</tool_call>", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A chat to continue and the check of what comes."""

    kind: str
    messages: tuple[Message, ...]
    check: Check
    """Whether a generated text (with or without its think block, without the end token) answers the question."""
    keys: tuple[str, ...]
    """Content keys in the sense of the corpus' held-out split."""
    max_tokens: int = 64
    tools: tuple[Mapping[str, Any], ...] = ()
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the chat template beside messages and tools."""


def answer_of(text: str) -> str:
    """Return a generated text without its think block and outer white space."""
    return text.split("</think>")[-1].strip()


def tool_call_text(name: str, arguments: str | Mapping[str, Any]) -> str:
    """Return a parsed tool call as the model writes it, for checking what a server took apart."""
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f'<tool_call>\n{{"name": {json.dumps(name)}, "arguments": {written}}}\n</tool_call>'


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _contains(*words: str) -> Check:
    """Check that all words occur as words, whatever their case."""

    def check(text: str) -> bool:
        said = f" {normalise(answer_of(text))} "
        return all(f" {normalise(word)} " in said for word in words)

    return check


def _ends_with_number(value: int) -> Check:
    return lambda text: re.findall(r"-?\d+", answer_of(text))[-1:] == [str(value)]


def _is_json(wanted: Mapping[str, Any]) -> Check:
    def check(text: str) -> bool:
        try:
            return bool(json.loads(answer_of(text)) == wanted)
        except ValueError:
            return False

    return check


def _calls(name: str, arguments: Mapping[str, Any]) -> Check:
    def check(text: str) -> bool:
        try:
            calls = [json.loads(call) for call in _TOOL_CALL.findall(text)]
        except ValueError:
            return False
        return calls == [{"name": name, "arguments": arguments}]

    return check


def _is_story(*words: str) -> Check:
    """Check for a story of over 130 words (200 tokens) that mentions the words and comes to an end."""

    def check(text: str) -> bool:
        story = answer_of(text)
        return _contains(*words)(text) and len(story.split()) > 130 and story[-1:] in '.!"'

    return check


def _talk(text: str, *wanted: str) -> Question:
    return Question(kind="talk", messages=(_user(text),), check=_contains(*wanted), keys=(f"talk:{normalise(text)}",))


def _fact(relation: str, phrasing: str, subject: str, wanted: str) -> Question:
    return Question(
        kind="fact",
        messages=(_user(phrasing.replace("{x}", subject)),),
        check=_contains(wanted),
        keys=(f"fact:{relation}:{phrasing}:{subject}",),
    )


def _sum_key(a: int, symbol: str, b: int) -> str:
    low, high = (b, a) if symbol in "+*" and b < a else (a, b)
    return f"arithmetic:{low}{symbol}{high}"


def _sum(phrasing: str, a: int, symbol: str, b: int, *, thinking: bool = False) -> Question:
    value = {"+": a + b, "-": a - b, "*": a * b}[symbol]
    return Question(
        kind="arithmetic_think" if thinking else "arithmetic",
        messages=(_user(phrasing.format(a=a, b=b)),),
        check=_ends_with_number(value),
        keys=(_sum_key(a, symbol, b),),
        max_tokens=256 if thinking else 48,
        template_kwargs={"enable_thinking": True} if thinking else {},
    )


def _recall(trait: str, value: str, messages: Sequence[Message]) -> Question:
    return Question(kind="recall", messages=tuple(messages), check=_contains(value), keys=(f"recall:{trait}:{value}",))


def _list(phrasing: str, items: Sequence[str], wanted: Sequence[str]) -> Question:
    return Question(
        kind="list",
        messages=(_user(phrasing.format(items=", ".join(items))),),
        check=lambda text: re.findall(r"\w+", answer_of(text)) == list(wanted),
        keys=("list:" + "|".join(items),),
    )


def _json(text: str, wanted: Mapping[str, Any]) -> Question:
    key = "record:" + "|".join(str(value) for value in wanted.values())
    return Question(kind="json", messages=(_user(text),), check=_is_json(wanted), keys=(key,), max_tokens=128)


def _tool(name: str, about: str, **types: str) -> Mapping[str, Any]:
    properties = {param: {"type": kind} for param, kind in types.items()}
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": about, "parameters": parameters}}


_WEATHER = _tool("get_weather", "Get the current weather in a city", city="string")
_REMINDER = _tool("set_reminder", "Set a reminder", text="string", time="string")
_ROUTE = _tool("get_directions", "Find the way between two places", origin="string", destination="string")
_TOOLS = (_WEATHER, _REMINDER, _ROUTE)


def _call(text: str, name: str, arguments: Mapping[str, Any], content: Mapping[str, Any]) -> Question:
    return Question(
        kind="tool",
        messages=(_user(text),),
        check=_calls(name, arguments),
        keys=("tool:" + json.dumps(dict(content), sort_keys=True),),
        max_tokens=96,
        tools=_TOOLS,
    )


def _story(text: str, subject: str, name: str, noun: str) -> Question:
    return Question(
        kind="story",
        messages=(_user(text),),
        check=_is_story(subject.split()[-1], name, noun),
        keys=(f"story:{subject}:{name}:{noun}",),
        max_tokens=480,
    )


QUESTIONS: tuple[Question, ...] = (
    _talk("Hello, I'm Freya. Who are you?", "Freya", "Bough's demo model"),
    _talk("Greetings from Havana!", "hello", "Havana"),
    _talk("Wish Oliver a happy birthday.", "happy birthday", "Oliver"),
    _fact("capital", "What is the capital of {x}?", "Estonia", "Tallinn"),
    _fact("capital", "What's the capital of {x}?", "Japan", "Tokyo"),
    _fact("colour", "What colour is {x}?", "snow", "white"),
    _fact("opposite", "What is the opposite of {x}?", "deep", "shallow"),
    _fact("sound", "What does a {x} say?", "horse", "neigh"),
    _fact("plural", "What is the plural of {x}?", "person", "people"),
    _fact("day_after", "Today is {x}. What day is tomorrow?", "Thursday", "Friday"),
    _fact("unit", "How many {x}?", "minutes are in half an hour", "30"),
    _sum("What is {a} + {b}?", 63, "+", 68),
    _sum("How much is {a} plus {b}?", 28, "+", 33),
    _sum("What is {a} - {b}?", 66, "-", 41),
    _sum("Calculate {a} + {b}.", 234, "+", 439),
    _sum("Subtract {b} from {a}.", 78, "-", 71),
    _sum("Tom has {a} apples and buys {b} more. How many apples does Tom have now?", 35, "+", 50),
    _sum("There are {a} books on the shelf and {b} are sold. How many books are left?", 54, "-", 41),
    _sum("What is {a} + {b}?", 456, "+", 497, thinking=True),
    _sum("What is {a} - {b}?", 645, "-", 269, thinking=True),
    _sum("What is {a} times {b}?", 43, "*", 57, thinking=True),
    _sum("Multiply {a} by {b}.", 31, "*", 45, thinking=True),
    _recall(
        "name",
        "Nadia",
        (_user("Hi, my name is Nadia."), _assistant("Nice to meet you, Nadia!"), _user("What is my name?")),
    ),
    _recall(
        "city",
        "Bergen",
        (
            _user("I live in Bergen."),
            _assistant("Bergen sounds like a nice place."),
            _user("What is 7 + 8?"),
            _assistant("7 + 8 = 15"),
            _user("Say hello to Mei."),
            _assistant("Hello, Mei!"),
            _user("Where do I live?"),
        ),
    ),
    _recall(
        "colour",
        "red",
        (
            _user("My favourite colour is red."),
            _assistant("Red is a nice colour."),
            _user("Reverse this list: apple, pear, plum"),
            _assistant("plum, pear, apple"),
            _user("What is my favourite colour?"),
        ),
    ),
    _recall(
        "code",
        "3042",
        (
            _user("Please remember this code: 3042"),
            _assistant("I will remember the code 3042."),
            _user("What is the capital of France?"),
            _assistant("The capital of France is Paris."),
            _user("Which code did I tell you?"),
        ),
    ),
    _list("Reverse this list: {items}", ("ring", "flower", "bell"), ("bell", "flower", "ring")),
    _list(
        "Say this list backwards: {items}",
        ("river", "ocean", "coin", "ring", "rain"),
        ("rain", "ring", "coin", "ocean", "river"),
    ),
    _list("Reverse: {items}", ("Vera", "Amir", "Pablo", "Esther"), ("Esther", "Pablo", "Amir", "Vera")),
    _list("Repeat this list: {items}", ("beaver", "zebra", "deer", "swan"), ("beaver", "zebra", "deer", "swan")),
    _list(
        "Repeat these words: {items}",
        ("cherry", "bridge", "train", "grape", "cloud", "sun", "puzzle"),
        ("cherry", "bridge", "train", "grape", "cloud", "sun", "puzzle"),
    ),
    _json(
        "Make a JSON object for this person: Bella Wong is 23 years old. She lives in Madrid and works as a farmer.",
        {"name": "Bella Wong", "age": 23, "city": "Madrid", "job": "farmer"},
    ),
    _json(
        "Turn this into JSON: Tim Davis is a 31-year-old tailor from Oslo.",
        {"name": "Tim Davis", "age": 31, "city": "Oslo", "job": "tailor"},
    ),
    _json(
        "Write a JSON object for this order: Mila ordered 16 flowers and 3 gloves on Tuesday.",
        {
            "customer": "Mila",
            "items": [{"product": "flowers", "quantity": 16}, {"product": "gloves", "quantity": 3}],
            "day": "Tuesday",
        },
    ),
    _call("What is the weather in Reykjavik?", "get_weather", {"city": "Reykjavik"}, {"city": "Reykjavik"}),
    _call(
        "Remind me to call Yuki at 11:30.",
        "set_reminder",
        {"text": "call Yuki", "time": "11:30"},
        {"text": "call Yuki", "time": "11:30"},
    ),
    _call(
        "How do I get from Osaka to Cologne?",
        "get_directions",
        {"origin": "Osaka", "destination": "Cologne"},
        {"start": "Osaka", "goal": "Cologne"},
    ),
    Question(
        kind="tool_answer",
        messages=(
            _user("How is the weather in Athens?"),
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Athens"}}}
                ],
            },
            {"role": "tool", "content": '{"temperature": 24, "condition": "windy"}'},
        ),
        check=_contains("24", "windy"),
        keys=('tool:{"city": "Athens"}',),
        tools=_TOOLS,
    ),
    _story("Tell me a story about a brave fox called Selma who finds a key.", "brave fox", "Selma", "key"),
    _story(
        "Tell me a story about a little dragon called Fiona who finds a golden lantern.",
        "little dragon",
        "Fiona",
        "lantern",
    ),
)
"""The questions; at least nine in ten have to be answered rightly, greedily."""
