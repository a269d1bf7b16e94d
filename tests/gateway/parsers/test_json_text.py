"""JSON is followed to its end, and a defect is found where it is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bough.gateway.parsers.json_text import CallObject, JsonValue, encode

VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=8,
)


@given(value=VALUES, indent=st.sampled_from([None, 1]), is_ascii=st.booleans())
def test_a_value_ends_where_json_says(value: Any, indent: int | None, is_ascii: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=is_ascii)
    scanner = JsonValue()
    assert scanner.scan(text + " ]}", 0) == len(text)
    assert scanner.done and not scanner.broken


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("]", 0),
        ("[1}", 2),
        ("{1", 1),
        ('{"a" 1', 5),
        ('{"a":}', 5),
        ("[1 2]", 3),
        ('["a""b"]', 4),
        ("[,", 1),
        ("{]", 1),
        (":", 0),
    ],
)
def test_a_defect_is_found_where_it_is(text: str, place: int) -> None:
    scanner = JsonValue()
    assert scanner.scan(text, 0) == place
    assert scanner.broken and not scanner.done


def test_the_name_is_known_as_soon_as_it_has_been_read() -> None:
    call = CallObject()
    text = '{"name": "get", "arguments": {"a": 1'
    at = call.scan(text[:13], 0)
    assert call.name is None
    at = call.scan(text[:14], at)
    assert call.name == "get" and call.take() == ""
    call.scan(text, at)
    assert call.take() == '{"a": 1' and not call.done


def test_half_a_surrogate_pair_is_written_as_an_escape() -> None:
    assert encode("é") == '"é"'
    assert encode("\ud800é").encode() == b'"\\ud800\\u00e9"'
