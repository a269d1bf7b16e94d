"""Constraints that hold a model to a format of tool calls, as structural tags of xgrammar.

Tags are plain dicts: they are written as JSON for the grammar service, which alone loads xgrammar.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bough.common.errors import InvalidRequestError
from bough.gateway.parsers import deepseek, gpt_oss, kimi_k2, llama3, mistral
from bough.gateway.parsers.spec import BuildStructuralTag, ToolSpec

Format = dict[str, Any]

_MAX_WHITE_SPACE = 16
"""Characters in a row between the parts of arguments: with no bound, a model that is lost writes line breaks on."""

_ANY_OBJECT: Format = {"type": "object"}
_PYTHON_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEYWORDS_OF_ARGUMENTS = frozenset(
    [
        *("type", "properties", "required", "additionalProperties", "$defs", "definitions"),
        *("$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated"),
    ]
)
_TYPE_WORDS = ("type", "$ref", "anyOf", "oneOf", "allOf", "enum", "const")


def one_by_one(
    begin: Callable[[str], str], end: str, *, trigger: str, separator: str = "\n", style: str = "json"
) -> BuildStructuralTag:
    """The constraint of a format in which every call has markers of its own.

    Args:
        begin: The text of a call up to its arguments, by the tool's name.
        end: The text behind the arguments.
        trigger: What all calls begin with.
        separator: The text between calls.
        style: How the arguments are written, as xgrammar names it.
    """

    def build(tools: Sequence[ToolSpec], *, required: bool, parallel: bool, reads_schema: bool) -> Format:
        tags = [_tag(begin(tool.name), _arguments(tool, reads_schema, style), end) for tool in tools]
        if required:
            return _whole(_separated(tags, separator, parallel=parallel))
        return _whole(_in_text(tags, [trigger], once=not parallel))

    return build


def in_a_section(
    start: str, begin: Callable[[str], str], end: str, section_end: str, *, separator: str = ""
) -> BuildStructuralTag:
    """The constraint of a format whose calls stand together between two markers.

    Args:
        start: The text that opens the section.
        begin: The text of a call up to its arguments, by the tool's name.
        end: The text behind the arguments.
        section_end: The text that closes the section.
        separator: The text between calls.
    """

    def build(tools: Sequence[ToolSpec], *, required: bool, parallel: bool, reads_schema: bool) -> Format:
        tags = [_tag(begin(tool.name), _arguments(tool, reads_schema), end) for tool in tools]
        section = _tag(start, _separated(tags, separator, parallel=parallel), section_end)
        return _whole(section if required else _in_text([section], [start], once=True))

    return build


def llama3_tag(tools: Sequence[ToolSpec], *, required: bool, parallel: bool, reads_schema: bool) -> Format:
    """Bare objects, or, where no call is required, also text with calls behind `<|python_tag|>`.

    Text that begins with a brace can then only be a call: the parser could not tell it from one.
    """
    tags = [
        _tag(_object_head(tool.name, "parameters"), _arguments(tool, reads_schema), "}") for tool in tools
    ]  # the objects themselves
    bare = _separated(tags, "; ", parallel=parallel)
    if required:
        return _whole(bare)
    marked = [{**tag, "begin": llama3.START + tag["begin"]} for tag in tags]
    first = {"type": "regex", "pattern": r"[^\s{<]"}
    text = {"type": "sequence", "elements": [first, _in_text(marked, [llama3.START], once=not parallel)]}
    return _whole({"type": "or", "elements": [bare, _separated(marked, "; ", parallel=parallel), text]})


def gpt_oss_tag(tools: Sequence[ToolSpec], *, required: bool, parallel: bool, reads_schema: bool) -> Format:
    """One call, since its end ends the model's turn; behind thoughts the role comes before the channel."""
    head = f"{gpt_oss.CHANNEL}commentary to=functions."
    ends = [gpt_oss.CALL, ""]  # the marker is an end-of-sequence token of these models, which is no text
    tags = [
        _tag(f"{head}{tool.name} <|constrain|>json{gpt_oss.MESSAGE}", _arguments(tool, reads_schema), ends)
        for tool in tools
    ]
    if not required:
        return _whole(_in_text(tags, [head], once=True))
    role = {"type": "optional", "content": _constant(f"{gpt_oss.START}assistant")}
    return _whole({"type": "sequence", "elements": [role, _separated(tags, "", parallel=False)]})


def pythonic_tag(tools: Sequence[ToolSpec], *, required: bool, parallel: bool, reads_schema: bool) -> Format:
    """A list of calls; values are in JSON, which the parser takes for Python."""
    calls = {tool.name: _keywords(tool, reads_schema) for tool in tools}
    call = _choice([_sequence(_constant(f"{name}("), keywords, _constant(")")) for name, keywords in calls.items()])
    more = [{"type": "star", "content": _sequence(_constant(", "), call)}] if parallel else []
    tags = [_tag(f"[{name}(", _sequence(keywords, _constant(")"), *more), "]") for name, keywords in calls.items()]
    if required:
        return _whole(_separated(tags, "", parallel=False))
    return _whole(_in_text(tags, [tag["begin"] for tag in tags], once=True))


hermes_tag = one_by_one(
    lambda name: "<tool_call>\n" + _object_head(name, "arguments"), "}\n</tool_call>", trigger="<tool_call>"
)
qwen3_coder_tag = one_by_one(
    lambda name: f"<tool_call>\n<function={name}>\n",
    "</function>\n</tool_call>",
    trigger="<tool_call>",
    style="qwen_xml",
)
glm45_tag = one_by_one(lambda name: f"<tool_call>{name}", "</tool_call>", trigger="<tool_call>", style="glm_xml")
mistral_tag = in_a_section(mistral.START + "[", lambda name: _object_head(name, "arguments"), "}", "]", separator=", ")
mistral_v11_tag = one_by_one(
    lambda name: f"{mistral.START}{name}{mistral.ARGUMENTS}", "", trigger=mistral.START, separator=""
)
deepseek_v3_tag = in_a_section(
    deepseek.SECTION_START,
    lambda name: f"{deepseek.START}{deepseek.TYPE}{deepseek.SEPARATOR}{name}\n{deepseek.FENCE_START}\n",
    f"\n{deepseek.FENCE_END}{deepseek.END}",
    deepseek.SECTION_END,
    separator="\n",
)
deepseek_v31_tag = in_a_section(
    deepseek.SECTION_START,
    lambda name: f"{deepseek.START}{name}{deepseek.SEPARATOR}",
    deepseek.END,
    deepseek.SECTION_END,
)


def kimi_k2_tag(tools: Sequence[ToolSpec], *, required: bool, parallel: bool, reads_schema: bool) -> Format:
    """A section of calls, each numbered: any number is accepted, since a grammar cannot count."""
    tags = []
    for tool in tools:
        number = {"type": "regex", "pattern": "[0-9]{1,3}"}
        arguments = _arguments(tool, reads_schema)
        content = _sequence(number, _constant(kimi_k2.ARGUMENTS), arguments)
        tags.append(_tag(f"{kimi_k2.START}functions.{tool.name}:", content, kimi_k2.END))
    section = _tag(kimi_k2.SECTION_START, _separated(tags, "", parallel=parallel), kimi_k2.SECTION_END)
    return _whole(section if required else _in_text([section], [kimi_k2.SECTION_START], once=True))


def _whole(format_: Format) -> Format:
    return {"type": "structural_tag", "format": format_}


def _tag(begin: str, content: Format, end: str | list[str]) -> Format:
    return {"type": "tag", "begin": begin, "content": content, "end": end}


def _constant(text: str) -> Format:
    return {"type": "const_string", "value": text}


def _sequence(*elements: Format) -> Format:
    return {"type": "sequence", "elements": list(elements)}


def _choice(elements: Sequence[Format]) -> Format:
    return elements[0] if len(elements) == 1 else {"type": "or", "elements": list(elements)}


def _separated(tags: Sequence[Format], separator: str, *, parallel: bool) -> Format:
    return {
        "type": "tags_with_separator",
        "tags": list(tags),
        "separator": separator,
        "at_least_one": True,
        "stop_after_first": not parallel,
    }


def _in_text(tags: Sequence[Format], triggers: Sequence[str], *, once: bool) -> Format:
    return {"type": "triggered_tags", "triggers": list(triggers), "tags": list(tags), "stop_after_first": once}


def _object_head(name: str, key: str) -> str:
    return f'{{"name": {json.dumps(name, ensure_ascii=False)}, "{key}": '


def _schema(tool: ToolSpec, reads_schema: bool) -> Format:
    """The schema that the arguments follow; always one of an object."""
    if not (reads_schema and tool.strict and isinstance(tool.parameters, dict)):
        return _ANY_OBJECT
    if any(word in tool.parameters for word in _TYPE_WORDS):
        return tool.parameters
    return {**_ANY_OBJECT, **tool.parameters}


def _json(schema: Format | bool, style: str = "json") -> Format:
    return {"type": "json_schema", "json_schema": schema, "style": style, "max_whitespace_cnt": _MAX_WHITE_SPACE}


def _arguments(tool: ToolSpec, reads_schema: bool, style: str = "json") -> Format:
    return _json(_schema(tool, reads_schema), style)


def _keywords(tool: ToolSpec, reads_schema: bool) -> Format:
    """Arguments as keywords, in the order of the schema, those that are required first."""
    schema = _schema(tool, reads_schema)
    _check_keywords(tool.name, schema)
    properties = schema.get("properties", {})
    definitions: Format = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    # A name that Python does not take cannot be a keyword, and the call would be none.
    names = [name for name in properties if _PYTHON_NAME.fullmatch(name)]
    rest = schema.get("additionalProperties", True)
    if not names and rest is not False:
        pair = _sequence({"type": "regex", "pattern": "[A-Za-z_][A-Za-z0-9_]*="}, _json(_with(definitions, rest)))
        more: Format = {"type": "star", "content": _sequence(_constant(", "), pair)}
        return {"type": "optional", "content": _sequence(pair, more)}
    pairs = {name: _sequence(_constant(f"{name}="), _json(_with(definitions, properties[name]))) for name in names}
    required = [pairs[name] for name in names if name in schema.get("required", ())]
    optional = [pairs[name] for name in names if name not in schema.get("required", ())]
    return _listed(required, optional)


def _with(definitions: Format, schema: Any) -> Any:
    return {**schema, **definitions} if isinstance(schema, dict) else schema


def _check_keywords(name: str, schema: Format) -> None:
    """Refuse what keywords with a grammar each cannot be held to: what is said of the arguments together."""
    field = f"tools.{name}.parameters"
    for key in schema:
        if key not in _KEYWORDS_OF_ARGUMENTS and not key.startswith("x-"):
            raise InvalidRequestError(f"{field}: {key} is not supported in this model's format of calls", field=field)
    properties = schema.get("properties", {})
    for required in schema.get("required", ()):
        if not _PYTHON_NAME.fullmatch(required) or required not in properties:
            raise InvalidRequestError(
                f"{field}: required: {required!r} is no listed property that this model's format of calls can name",
                field=field,
            )
    if any(not reference.startswith(("#/$defs/", "#/definitions/")) for reference in _references(schema)):
        raise InvalidRequestError(
            f"{field}: $ref is supported only to $defs in this model's format of calls", field=field
        )


def _references(schema: Any) -> Iterator[str]:
    for key, value in schema.items() if isinstance(schema, dict) else enumerate(schema):
        if key == "$ref" and isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            yield from _references(value)


def _listed(required: Sequence[Format], optional: Sequence[Format]) -> Format:
    """All that is required and any of what is optional, in order, with commas between."""
    comma = _constant(", ")
    elements = [part for pair in required for part in (comma, pair)][1:]
    followers: list[Format] = [{"type": "optional", "content": _sequence(comma, pair)} for pair in optional]
    if elements:
        return _sequence(*elements, *followers)
    if not optional:
        return _constant("")
    # Which one comes first is open, and only those behind it have a comma.
    heads = [_sequence(pair, *followers[place + 1 :]) for place, pair in enumerate(optional)]
    return {"type": "optional", "content": _choice(heads)}
