"""What is said of the keywords of JSON Schema is what is done with them."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bough.grammar.schema_check import ANNOTATIONS, CLAIMED, REFUSED, SchemaError, check_schema, describe

OF_OTHER_DRAFTS = {"definitions", "dependencies", "additionalItems", "id", "$recursiveRef", "$recursiveAnchor"}
OF_OPENAPI = {"nullable", "discriminator"}


def test_the_command_prints_what_the_page_says() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bough.grammar.schema_check"], check=True, capture_output=True, text=True
    )
    assert done.stdout == describe()
    page = Path(__file__).parents[2] / "docs" / "api.md"
    assert f"```text\n{describe()}```\n" in page.read_text(), "put the command's output into docs/api.md"


def test_every_keyword_of_the_standard_is_known() -> None:
    registry: Any = importlib.import_module("jsonschema_specifications").REGISTRY  # has no types
    base = "https://json-schema.org/draft/2020-12/"
    parts = [part["$ref"] for part in registry.contents(f"{base}schema")["allOf"]]
    standard = {name for part in parts for name in registry.contents(base + part)["properties"]}
    assert standard - CLAIMED - ANNOTATIONS - REFUSED == set()
    assert (CLAIMED | ANNOTATIONS | REFUSED) - standard == OF_OTHER_DRAFTS | OF_OPENAPI
    assert not CLAIMED & ANNOTATIONS and not REFUSED & (CLAIMED | ANNOTATIONS)


@pytest.mark.parametrize("keyword", [*sorted(REFUSED), "minLenght"])
def test_a_keyword_that_is_not_enforced_is_refused_by_name(keyword: str) -> None:
    with pytest.raises(SchemaError, match=rf"^properties\.a: {keyword.replace('$', '[$]')} is "):
        check_schema({"properties": {"a": {keyword: {}}}})
