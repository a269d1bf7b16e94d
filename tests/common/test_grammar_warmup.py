"""The grammar that is walked through at a start."""

from __future__ import annotations

import json

import jsonschema
import pytest
import xgrammar

from bough.common import grammar_warmup
from bough.common.grammar_form import mask_compiler, read_grammar
from bough.common.sampling import GrammarKind
from bough.common.vocab import read_vocabulary, xgrammar_tokenizer_info
from bough.demo import model_dir
from bough.grammar.compiler import Compiler

VOCAB_SIZE, EOS = 4096, [4089]


@pytest.fixture(scope="module")
def info() -> xgrammar.TokenizerInfo:
    found: xgrammar.TokenizerInfo = xgrammar_tokenizer_info(
        read_vocabulary(model_dir()), vocab_size=VOCAB_SIZE, stop_token_ids=EOS
    )
    return found


def compiled(info: xgrammar.TokenizerInfo, masks: xgrammar.GrammarCompiler, schema: str) -> xgrammar.CompiledGrammar:
    compiler = Compiler(read_vocabulary(model_dir()), vocab_size=VOCAB_SIZE, stop_token_ids=EOS)
    return masks.compile_grammar(read_grammar(compiler.compile(GrammarKind.JSON_SCHEMA, schema)))


def test_the_text_holds_for_the_schema_and_has_all_of_its_values() -> None:
    value, schema = json.loads(grammar_warmup.TEXT), json.loads(grammar_warmup.SCHEMA)
    jsonschema.validate(value, schema)
    assert value.keys() == schema["properties"].keys()


def test_what_was_walked_leaves_few_masks_to_make_for_another_schema(info: xgrammar.TokenizerInfo) -> None:
    masks = mask_compiler(info)
    grammar_warmup.walk(compiled(info, masks, grammar_warmup.SCHEMA), VOCAB_SIZE)
    shared = masks.get_cache_size_bytes()
    schema = {"type": "object", "properties": {"name": {"type": "string"}, "ages": {"type": "array"}}}
    other = compiled(info, masks, json.dumps(schema | {"required": ["name", "ages"]}))
    bitmask, matcher = xgrammar.allocate_token_bitmask(1, VOCAB_SIZE), xgrammar.GrammarMatcher(other)
    for character in '{"name": "Ann Lee", "ages": [1, "two", {}]}':
        matcher.fill_next_token_bitmask(bitmask, 0)
        assert matcher.accept_string(character)
    assert masks.get_cache_size_bytes() < 1.25 * shared


def test_a_text_that_does_not_fit_is_an_error(info: xgrammar.TokenizerInfo) -> None:
    with pytest.raises(RuntimeError, match="does not fit the grammar"):
        grammar_warmup.walk(mask_compiler(info).compile_grammar('root ::= "{" [a-z]'), VOCAB_SIZE)
