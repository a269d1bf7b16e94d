"""Tool use: choosing a tool by its schema, filling its arguments, answering from its result."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bough.demo.corpus.base import Exchange, Split, ask, fill, is_held_out
from bough.demo.corpus.tool_table import FAMILIES, NOUNS, Family, Param
from bough.demo.corpus.words import any_city, any_first_name, any_word, made_up_word

__all__ = ["NO_TOOL", "ToolBox", "request_without_tool"]

NO_TOOL = "I am sorry, I have no tool for that."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tool:
    """A family under one set of names."""

    family: Family
    name: str
    param_names: Mapping[str, str]
    schema: Mapping[str, Any]


def _made_up_family(rng: random.Random) -> Family:
    """Return a family nobody trained for: it looks up one noun of one thing."""
    noun = rng.choice(NOUNS) if rng.random() < 0.8 else made_up_word(rng)
    spoken = noun.replace("_", " ")
    subject = rng.choice(("name", "city", "country", "item", "id", "person", "title", "product"))
    draws = {"name": any_first_name, "person": any_first_name, "city": any_city, "country": any_city}
    param = Param(names=(subject,), draw=draws.get(subject, any_word), about=f"The {subject} to look up")
    return Family(
        names=(f"get_{noun}", f"get_{noun}", f"lookup_{noun}", f"fetch_{noun}", f"{noun}_lookup", f"find_{noun}"),
        about=(f"Get the {spoken} of a {subject}", f"Returns the {spoken}", f"Look up the {spoken} of something"),
        params={"it": param},
        requests=(f"What is the {spoken} of {{it}}?", f"Get the {spoken} of {{it}}.",
            f"Tell me the {spoken} of {{it}}.",
                  f"Look up the {spoken} of {{it}}.", f"Find the {spoken} for {{it}}."),
        result={noun: lambda rng: rng.choice((any_word(rng), rng.randint(1, 9999)))},
        answer=f"The {spoken} of {{it}} is {{{noun}}}.",
    )  # fmt: skip


def _schema(rng: random.Random, name: str, family: Family, param_names: Mapping[str, str]) -> dict[str, Any]:
    """Write the family as an OpenAI tool, with more or less detail."""
    described = rng.random() < 0.6
    properties: dict[str, Any] = {}
    for slot, param in family.params.items():
        entry: dict[str, Any] = {"type": param.type}
        if described:
            entry["description"] = param.about
        if param.enum:
            entry["enum"] = list(param.enum)
        properties[param_names[slot]] = entry
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if rng.random() < 0.85:
        parameters["required"] = list(properties)
    if rng.random() < 0.1:
        parameters["additionalProperties"] = False
    parts = [("name", name), ("description", rng.choice(family.about)), ("parameters", parameters)]
    if rng.random() < 0.15:
        rng.shuffle(parts)
    elif rng.random() < 0.1:
        del parts[1]
    return {"type": "function", "function": dict(parts)}


def _tool(rng: random.Random, family: Family) -> _Tool:
    name, taken = rng.choice(family.names), dict[str, str]()
    for slot, param in family.params.items():
        taken[slot] = rng.choice([option for option in param.names if option not in taken.values()])
    return _Tool(family=family, name=name, param_names=taken, schema=_schema(rng, name, family, taken))


def _result(rng: random.Random, tool: _Tool, slots: Mapping[str, Any]) -> tuple[str, str]:
    """Return what the tool sends back and the sentence that tells it to the user."""
    values = {key: draw(rng) if callable(draw) else draw for key, draw in tool.family.result.items()}
    answer = fill(tool.family.answer, **slots, **{key: value for key, value in values.items() if key not in slots})
    if tool.family.texts and rng.random() < 0.25:
        capital = {key.capitalize(): str(value).capitalize() for key, value in values.items()}
        return fill(rng.choice(tool.family.texts), **values, **capital), answer
    if rng.random() < 0.35:
        values = {rng.choice(tool.family.aliases.get(key, (key,))): value for key, value in values.items()}
    dice = rng.random()
    if dice < 0.1 and "status" not in values:
        text = ", ".join(f"{key}: {value}" for key, value in values.items())
    elif dice < 0.3:
        shown = {tool.param_names[slot]: value for slot, value in slots.items() if slot in tool.param_names}
        text = json.dumps({**shown, **values}, ensure_ascii=False)
    elif dice < 0.4 and len(values) == 1 and "status" not in values:
        text = str(next(iter(values.values())))
    else:
        text = json.dumps(values, ensure_ascii=False)
    if rng.random() < 0.04:
        return json.dumps({"error": rng.choice(("not found", "no connection", "timeout"))}), (
            "I am sorry, the tool did not work."
        )
    return text, answer


class ToolBox:
    """The tools of one chat; yields requests that need one of them."""

    def __init__(self, rng: random.Random, split: Split) -> None:
        self._rng = rng
        self._split = split
        families: list[Family] = []
        for _ in range(rng.choices((1, 2, 3, 4), (5, 4, 3, 1))[0]):
            family = _made_up_family(rng) if rng.random() < 0.25 else rng.choice(FAMILIES)
            if family not in families:
                families.append(family)
        tools = [_tool(rng, family) for family in families]
        self._tools = list({tool.name: tool for tool in tools}.values())

    @property
    def schemas(self) -> tuple[Mapping[str, Any], ...]:
        """The tools as the OpenAI API has them."""
        return tuple(tool.schema for tool in self._tools)

    def request(self) -> Exchange:
        """Return a request that one of the tools serves, with the call, the result and the final answer."""
        rng = self._rng
        tool = rng.choice(self._tools)
        if tool.family.double and rng.random() < 0.15:
            return self._double(tool)
        slots = self._slots(tool)
        text = ask(rng, tool.family.requests, **slots)
        result, answer = _result(rng, tool, slots)
        return self._exchange(tool, text, (slots,), (result,), answer)

    def _slots(self, tool: _Tool) -> dict[str, Any]:
        """Draw arguments on the wanted side of the split."""
        for _ in range(500):
            slots = {slot: param.draw(self._rng) for slot, param in tool.family.params.items()}
            key = "tool:" + json.dumps(slots, sort_keys=True)
            distinct = len(set(map(str, slots.values()))) == len(slots)
            if distinct and is_held_out(key) == (self._split == "dev"):
                break
        return slots

    def _double(self, tool: _Tool) -> Exchange:
        rng = self._rng
        slot = next(iter(tool.family.params))
        slots = [self._slots(tool), self._slots(tool)]
        text = ask(rng, tool.family.double, one=slots[0][slot], two=slots[1][slot])
        results = [_result(rng, tool, each) for each in slots]
        answer = " ".join(answer for _, answer in results)
        return self._exchange(tool, text, slots, [result for result, _ in results], answer)

    def _exchange(
        self, tool: _Tool, text: str, slots: Sequence[Mapping[str, Any]], results: Sequence[str], answer: str
    ) -> Exchange:
        calls = tuple(
            {"name": tool.name, "arguments": {tool.param_names[slot]: value for slot, value in each.items()}}
            for each in slots
        )
        return Exchange(
            kind="tool",
            user=text,
            answer="",
            reasoning=f"The tool {tool.name} can do this, so I call it.",
            keys=tuple("tool:" + json.dumps(dict(each), sort_keys=True) for each in slots),
            tools=self.schemas,
            tool_calls=calls,
            tool_results=tuple(results),
            final_answer=answer,
        )

    def request_for_missing(self) -> Exchange:
        """Return a request for which the chat has no tool."""
        rng = self._rng
        mine = {name for tool in self._tools for name in tool.family.names}
        others = [family for family in FAMILIES if family.names[0] not in mine and family.names[0] != "calculator"]
        return _refusal(rng, rng.choice(others))


def _refusal(rng: random.Random, family: Family) -> Exchange:
    slots = {slot: param.draw(rng) for slot, param in family.params.items()}
    return Exchange(
        kind="no_tool",
        user=ask(rng, family.requests, **slots),
        answer=NO_TOOL,
        reasoning="I would need a tool for this, and I have none.",
        keys=("tool:" + json.dumps(slots, sort_keys=True),),
    )


def request_without_tool(rng: random.Random) -> Exchange:
    """Return a request that would need a tool in a chat that has none."""
    return _refusal(
        rng, rng.choice([family for family in FAMILIES if family.names[0] not in ("calculator", "translate")])
    )
