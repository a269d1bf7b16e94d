"""A model that is held to a format writes calls of its tools, as the format's parser reads them, and nothing else."""

from __future__ import annotations

import json
import random
from functools import cache
from typing import Any

import pytest
import torch
import xgrammar

from bough.common.errors import InvalidRequestError
from bough.common.vocab import read_vocabulary, xgrammar_tokenizer_info
from bough.demo import model_dir
from bough.gateway.parsers.registry import TOOL_FORMATS, ToolSpec
from tests.gateway.parsers.assembly import TOOLS, assemble
from tests.gateway.parsers.renderings import RENDERINGS, Call

END = 0
"""The id that ends an output."""
MAX_TOKENS = 60
CLOSING = ("\n</parameter>\n", "</arg_value>", "</function>\n</tool_call>", "</tool_call>", '"', "}", "]", ")")
ONE: list[Call] = [("get_weather", {"city": "Ulm", "days": 3})]
TWO: list[Call] = [*ONE, ("ping", {})]
STRICT = ToolSpec(
    name="get_weather",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    strict=True,
)
STRICT_LIST = ToolSpec(
    name="add-all",
    parameters={
        "type": "object",
        "properties": {"all": {"type": "array", "items": {"type": "number"}}, "exact": {"type": "boolean"}},
        "required": ["exact"],
        "additionalProperties": False,
    },
    strict=True,
)
WRITTEN_OTHERWISE = {"pythonic"}
"""The grammar writes values in JSON, of which Python's own words are no part."""
WITHOUT_SECOND_CALL = {"gpt_oss"}
RENDERED = sorted(set(RENDERINGS) - {"llama3, marked"})


@cache
def vocabulary() -> xgrammar.TokenizerInfo:
    config = json.loads((model_dir() / "config.json").read_text())
    tokens = read_vocabulary(model_dir())
    found: xgrammar.TokenizerInfo = xgrammar_tokenizer_info(
        tokens, vocab_size=config["vocab_size"], stop_token_ids=[END]
    )
    return found


@cache
def texts() -> list[bytes]:
    return list(vocabulary().decoded_vocab)


@cache
def compiler() -> xgrammar.GrammarCompiler:
    return xgrammar.GrammarCompiler(vocabulary(), max_threads=1, cache_enabled=False)


def accepts(tag: dict[str, Any], text: str) -> bool:
    """Whether the text is a whole output under the constraint, as it travels: in JSON."""
    matcher = xgrammar.GrammarMatcher(compiler().compile_structural_tag(json.dumps(tag)))
    return bool(matcher.accept_string(text)) and bool(matcher.is_completed())


def random_output(tag: dict[str, Any], rng: random.Random) -> str | None:
    """A whole output that the constraint allows, drawn token by token; None where none came about."""
    matcher = xgrammar.GrammarMatcher(compiler().compile_structural_tag(json.dumps(tag)))
    mask = xgrammar.allocate_token_bitmask(1, len(texts()))
    output = b""
    for _ in range(MAX_TOKENS):
        forced = matcher.find_jump_forward_string()
        if forced:
            assert matcher.accept_string(forced)
            output += forced.encode()
            continue
        # Free strings would go on for ever: what may close something is drawn more often than its share.
        closing = [text for text in CLOSING if matcher.fork().accept_string(text)] if rng.random() < 0.4 else []
        if closing:
            assert matcher.accept_string(closing[0])
            output += closing[0].encode()
            continue
        matcher.fill_next_token_bitmask(mask, 0)
        bits = (mask[0].unsqueeze(1) >> torch.arange(32, dtype=torch.int32)) & 1
        # No parts of characters: xgrammar gives what is forced as text.
        allowed = [token for token in torch.nonzero(bits.flatten()).flatten().tolist() if texts()[token].isascii()]
        token = rng.choice(allowed)
        if END in allowed and (token == END or rng.random() < 0.5):
            return output.decode()
        assert matcher.accept_token(token)
        output += texts()[token]
    return None


def tag_of(rendering: str, *tools: ToolSpec, **options: bool) -> dict[str, Any]:
    name = RENDERINGS[rendering][0]
    defaults = {"required": False, "parallel": True, "reads_schema": True}
    return TOOL_FORMATS[name].structural_tag(tools or TOOLS, **{**defaults, **options})


@pytest.mark.parametrize("rendering", sorted(set(RENDERED) - WRITTEN_OTHERWISE))
@pytest.mark.parametrize("required", [True, False])
def test_calls_are_accepted_as_the_format_writes_them(rendering: str, required: bool) -> None:
    render = RENDERINGS[rendering][1]
    tag = tag_of(rendering, required=required)
    assert accepts(tag, render(ONE))
    assert accepts(tag, render([("ping", {})]))
    assert accepts(tag, render(TWO)) is (rendering not in WITHOUT_SECOND_CALL)


@pytest.mark.parametrize("rendering", RENDERED)
@pytest.mark.parametrize("required", [True, False])
def test_a_tool_that_there_is_not_is_refused(rendering: str, required: bool) -> None:
    render = RENDERINGS[rendering][1]
    tag = tag_of(rendering, STRICT, required=required)
    wrong = render([("get_time", {"city": "Ulm"})])
    # Without a marker that only calls have, a list in Python or in brackets of another name is text.
    assert accepts(tag, wrong) is (rendering.startswith("pythonic") and not required)


@pytest.mark.parametrize("rendering", sorted(set(RENDERED) - WRITTEN_OTHERWISE))
@pytest.mark.parametrize("required", [True, False])
def test_arguments_of_a_strict_tool_follow_its_schema(rendering: str, required: bool) -> None:
    render = RENDERINGS[rendering][1]
    strict = tag_of(rendering, STRICT, required=required)
    assert accepts(strict, render(ONE))
    assert accepts(strict, render([("get_weather", {"city": "Ulm"})]))
    assert not accepts(strict, render([("get_weather", {"city": "Ulm", "days": "three"})]))
    assert not accepts(strict, render([("get_weather", {"days": 3})]))
    assert not accepts(strict, render([("get_weather", {})]))


@pytest.mark.parametrize("rendering", sorted(set(RENDERED) - WRITTEN_OTHERWISE))
def test_arguments_are_any_object_where_no_schema_is_read(rendering: str) -> None:
    render = RENDERINGS[rendering][1]
    loose = ToolSpec(name=STRICT.name, parameters=STRICT.parameters)
    other = render([("get_weather", {"days": "three", "other": [1, {"a": None}]})])
    assert accepts(tag_of(rendering, loose, required=True), other)
    assert accepts(tag_of(rendering, STRICT, required=True, reads_schema=False), other)
    assert not accepts(tag_of(rendering, STRICT, required=True), other)


@pytest.mark.parametrize("rendering", RENDERED)
def test_text_is_free_unless_a_call_is_required(rendering: str) -> None:
    assert accepts(tag_of(rendering), "No call is needed: 7 < 12 and [1].")
    assert not accepts(tag_of(rendering, required=True), "No call is needed.")
    assert not accepts(tag_of(rendering, required=True), "")


@pytest.mark.parametrize("rendering", sorted(set(RENDERED) - WRITTEN_OTHERWISE))
def test_text_may_stand_before_a_call_unless_one_is_required(rendering: str) -> None:
    text = "Let me see.\n" + RENDERINGS["llama3, marked" if rendering == "llama3" else rendering][1](ONE)
    assert accepts(tag_of(rendering), text)
    assert not accepts(tag_of(rendering, required=True), text)


@pytest.mark.parametrize("rendering", sorted(set(RENDERED) - WRITTEN_OTHERWISE))
@pytest.mark.parametrize("required", [True, False])
def test_one_call_is_all_there_is_without_parallel_calls(rendering: str, required: bool) -> None:
    render = RENDERINGS[rendering][1]
    tag = tag_of(rendering, required=required, parallel=False)
    assert accepts(tag, render(ONE))
    assert not accepts(tag, render(TWO))


@pytest.mark.parametrize("rendering", RENDERED)
@pytest.mark.parametrize("required", [True, False])
def test_a_strict_tool_without_parameters_has_no_arguments(rendering: str, required: bool) -> None:
    render = RENDERINGS[rendering][1]
    none = {"type": "object", "properties": {}, "additionalProperties": False}
    tag = tag_of(rendering, ToolSpec(name="go-on", parameters=none, strict=True), required=required)
    assert accepts(tag, render([("go-on", {})]))
    assert not accepts(tag, render([("go-on", {"days": 1})]))


@pytest.mark.parametrize("name", sorted(TOOL_FORMATS))
def test_whatever_a_constraint_allows_is_read_as_calls(name: str) -> None:
    tag = TOOL_FORMATS[name].structural_tag([*TOOLS, STRICT_LIST], required=True, parallel=True, reads_schema=True)
    drawn = [random_output(tag, random.Random(seed)) for seed in range(8)]
    outputs = [output for output in drawn if output is not None]
    assert outputs
    for output in outputs:
        message = assemble(TOOL_FORMATS[name].make([*TOOLS, STRICT_LIST]), [output])
        assert message.calls and not message.content, output
        assert all(isinstance(json.loads(arguments), dict) for _, arguments in message.calls), output


def test_behind_thoughts_a_call_of_gpt_oss_begins_with_the_role() -> None:
    render = RENDERINGS["gpt_oss"][1]
    assert accepts(tag_of("gpt_oss", required=True), "<|start|>assistant" + render(ONE))
    assert accepts(tag_of("gpt_oss", required=True), render(ONE).removesuffix("<|call|>"))


@pytest.mark.parametrize(
    ("required", "good", "bad"),
    [
        ([], ["", "a=1", 'a=1, b="x"', 'b="x"'], ['b="x", a=1', "a=1,", "c=1"]),
        (["b"], ['b="x"', 'b="x", a=1'], ["", "a=1", 'a=1, b="x"']),
        (["a", "b"], ['a=1, b="x"'], ["a=1", 'b="x"']),
    ],
)
def test_keywords_come_in_order_those_required_first(required: list[str], good: list[str], bad: list[str]) -> None:
    properties = {"a": {"$ref": "#/$defs/Number"}, "b": {"type": "string"}}
    schema = {"properties": properties, "required": required, "$defs": {"Number": {"type": "integer"}}}
    tag = tag_of("pythonic", ToolSpec(name="f", parameters=schema, strict=True), required=True)
    assert all(accepts(tag, f"[f({arguments})]") for arguments in good)
    assert not any(accepts(tag, f"[f({arguments})]") for arguments in bad)


def test_keywords_that_no_property_lists_follow_the_schema_of_the_others() -> None:
    schema = {"additionalProperties": {"$ref": "#/$defs/N"}, "$defs": {"N": {"type": "integer"}}}
    tag = tag_of("pythonic", ToolSpec(name="f", parameters=schema, strict=True), required=True)
    assert accepts(tag, "[f(a=1, b=2)]") and accepts(tag, "[f()]")
    assert not accepts(tag, '[f(a="x")]')


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"anyOf": [{"required": ["a"]}]}, r"tools\.f\.parameters: anyOf is not supported in this model's format"),
        ({"not": {}}, "not is not supported in"),
        ({"properties": {"a": True}, "minProperties": 1}, "minProperties is not supported in"),
        ({"properties": {"a-b": True}, "required": ["a-b"]}, "required: 'a-b' is no listed property"),
        ({"properties": {"a": True}, "required": ["b"]}, "required: 'b' is no listed property"),
        ({"properties": {"a": {"items": {"$ref": "#"}}}}, r"\$ref is supported only to \$defs"),
    ],
    ids=lambda value: json.dumps(value)[:50],
)
def test_what_keywords_cannot_be_held_to_is_refused_by_name(schema: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        tag_of("pythonic", ToolSpec(name="f", parameters=schema, strict=True), required=True)
    tag_of("pythonic", ToolSpec(name="f", parameters=schema), required=True)  # not strict: nothing was asked


def test_a_schema_without_a_type_is_that_of_an_object() -> None:
    tool = ToolSpec(name="f", parameters={"description": "Anything."}, strict=True)
    tag = tag_of("mistral_v11", tool, required=True)
    assert accepts(tag, '[TOOL_CALLS]f[ARGS]{"a": 1}')
    assert not accepts(tag, "[TOOL_CALLS]f[ARGS]1")


def test_white_space_between_arguments_has_a_bound() -> None:
    tag = tag_of("mistral_v11", required=True)
    assert accepts(tag, "[TOOL_CALLS]ping[ARGS]{" + " " * 10 + "}")
    assert not accepts(tag, "[TOOL_CALLS]ping[ARGS]{" + " " * 30 + "}")
