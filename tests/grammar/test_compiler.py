"""Compiled grammars accept what they must and nothing else, also after travelling to an executor."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import xgrammar
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from bough.common.grammar_form import mask_compiler, read_grammar
from bough.common.sampling import GrammarKind
from bough.common.vocab import parse_vocabulary, read_vocabulary, xgrammar_tokenizer_info
from bough.demo import model_dir
from bough.grammar.compiler import CompileError, Compiler
from bough.grammar.json_text import MAX_WHITESPACE
from tests.helpers.tokenizer_files import byte_fallback, byte_level, token_id, write_model_dir

VOCAB_SIZE = 512
SCHEMA = (
    '{"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}, "required": ["name"]}'
)


def _matcher(tokenizer: Tokenizer, eos: int, kind: GrammarKind, text: str) -> xgrammar.GrammarMatcher:
    """As an executor does it: its own TokenizerInfo, the compiled form from the wire."""
    vocabulary = parse_vocabulary(json.loads(tokenizer.to_str()))
    data = Compiler(vocabulary, vocab_size=VOCAB_SIZE, stop_token_ids=[eos]).compile(kind, text)
    info = xgrammar_tokenizer_info(vocabulary, vocab_size=VOCAB_SIZE, stop_token_ids=[eos])
    return xgrammar.GrammarMatcher(mask_compiler(info).compile_grammar(read_grammar(data)))


def _allowed(matcher: xgrammar.GrammarMatcher) -> set[int]:
    bitmask = xgrammar.allocate_token_bitmask(1, VOCAB_SIZE)
    matcher.fill_next_token_bitmask(bitmask, 0)
    bits = (bitmask[0].unsqueeze(1) >> torch.arange(32, dtype=torch.int32)) & 1
    return set(torch.nonzero(bits.flatten()).flatten().tolist())


@pytest.mark.parametrize(
    ("kind", "text", "good", "bad"),
    [
        (GrammarKind.JSON_SCHEMA, SCHEMA, '{"name": "Ada", "age": 36}', '{"age": 36}'),
        (GrammarKind.JSON_OBJECT, "", '{"a": [1, {"b": null}]}', "[1]"),
        (GrammarKind.REGEX, "[a-c]{2,3}é?", "abé", "abcd"),
        (GrammarKind.EBNF, 'root ::= "a" b\nb ::= [b-d]{2}', "abd", "abe"),
        (GrammarKind.CHOICE, '["red", "ré\\n\\"\\\\d", "red"]', 'ré\n"\\d', "re"),
    ],
)
@pytest.mark.parametrize("shape", ["byte level", "byte fallback"])
def test_a_matcher_accepts_exactly_what_the_source_says(
    shape: str, kind: GrammarKind, text: str, good: str, bad: str
) -> None:
    tokenizer, eos_token = (byte_level(), "<|im_end|>") if shape == "byte level" else (byte_fallback(), "</s>")
    if shape == "byte fallback":
        tokenizer.normalizer = None  # tokens of an output in mid-text, without the space of a beginning
    eos = token_id(tokenizer, eos_token)
    matcher = _matcher(tokenizer, eos, kind, text)
    for token in tokenizer.encode(
        good.replace(" ", "" if shape == "byte fallback" else " "), add_special_tokens=False
    ).ids:
        assert token in _allowed(matcher)
        assert matcher.accept_token(token)
    assert eos in _allowed(matcher) and not matcher.is_terminated()
    assert matcher.accept_token(eos) and matcher.is_terminated()
    assert not matcher.accept_token(eos)
    matcher.reset()
    accepted = [matcher.accept_token(token) for token in tokenizer.encode(bad, add_special_tokens=False).ids]
    assert not all(accepted) or eos not in _allowed(matcher)


def test_special_tokens_and_padding_are_never_allowed_inside_an_output() -> None:
    tokenizer = byte_level()
    eos = token_id(tokenizer, "<|im_end|>")
    matcher = _matcher(tokenizer, eos, GrammarKind.JSON_OBJECT, "")
    for token in tokenizer.encode('{"a').ids:
        assert matcher.accept_token(token)
    allowed = _allowed(matcher)
    assert token_id(tokenizer, "<think>") in allowed, "an added token that is text"
    assert token_id(tokenizer, "<|im_start|>") not in allowed and eos not in allowed
    assert max(allowed) < tokenizer.get_vocab_size() < VOCAB_SIZE


@pytest.mark.parametrize(("kind", "text"), [(GrammarKind.JSON_SCHEMA, SCHEMA), (GrammarKind.JSON_OBJECT, "")])
def test_json_may_be_indented_but_not_filled_up_with_line_breaks(kind: GrammarKind, text: str) -> None:
    tokenizer = byte_level()
    matcher = _matcher(tokenizer, token_id(tokenizer, "<|im_end|>"), kind, text)
    assert matcher.accept_string('{\n        "name" : "Ada"')
    assert matcher.accept_string("\n" * MAX_WHITESPACE)
    assert not matcher.accept_string("\n")
    assert matcher.accept_string("}")


@pytest.mark.parametrize("shape", ["byte level", "byte fallback", "demo"])
def test_the_view_of_the_vocabulary_is_xgrammars_own(shape: str, tmp_path: Path) -> None:
    if shape == "demo":
        path, eos = model_dir(), 4089
    else:
        tokenizer = byte_level() if shape == "byte level" else byte_fallback()
        path, eos = write_model_dir(tmp_path, tokenizer, tokenizer_class="TokenizersBackend"), 2
    theirs = xgrammar.TokenizerInfo.from_huggingface(
        AutoTokenizer.from_pretrained(str(path)), vocab_size=4096, stop_token_ids=[eos]
    )
    vocabulary = read_vocabulary(path)
    ours = xgrammar_tokenizer_info(vocabulary, vocab_size=4096, stop_token_ids=[eos])
    assert ours.dump_metadata() == theirs.dump_metadata()
    hidden = vocabulary.special_ids - {eos}
    assert [v for i, v in enumerate(ours.decoded_vocab) if i not in hidden] == [
        v for i, v in enumerate(theirs.decoded_vocab) if i not in hidden
    ]


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        (GrammarKind.JSON_SCHEMA, '{"type": "foo"}', 'type must be one or a list of null, .* got "foo"'),
        (GrammarKind.JSON_SCHEMA, '{"$ref": "#/x"}', "'#/x' is no schema of this document"),
        (GrammarKind.JSON_SCHEMA, '{"properties": {"a": {"not": {}}}}', r"properties\.a: not is not supported"),
        (GrammarKind.EBNF, "root ::= a", 'Rule "a" is not defined'),
        (GrammarKind.EBNF, 'root ::= root "a"', "no token of the vocabulary can begin an output"),
        (GrammarKind.CHOICE, '["a", ""]', "1: must not be empty"),
        (GrammarKind.STRUCTURAL_TAG, '{"type": "structural_tag", "format": {"type": "foo"}}', "foo"),
        (GrammarKind.REGEX, "(a", "at character 2: a group is not closed"),
        (GrammarKind.EBNF, "root ::= s\ns ::= [a-z ] | s s | s s s", "too ambiguous: a token takes .* ms to follow"),
    ],
)
def test_an_error_says_what_is_wrong_and_not_where_in_the_library(kind: GrammarKind, text: str, says: str) -> None:
    compiler = Compiler(read_vocabulary(model_dir()), vocab_size=4096, stop_token_ids=[4089])
    with pytest.raises(CompileError) as caught:
        compiler.compile(kind, text)
    assert re.search(says, str(caught.value)) and ".cc" not in str(caught.value)
