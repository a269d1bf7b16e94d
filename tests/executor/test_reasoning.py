"""Thoughts are free and end as they should; a grammar holds from there on."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import xgrammar

from bough.common.sampling import FinishReason, Grammar, GrammarKind, Reasoning
from bough.common.vocab import read_vocabulary, xgrammar_tokenizer_info
from bough.executor.grammars import GrammarMatcher
from bough.executor.reasoning import ReasoningMatcher
from bough.executor.runner import ModelRunner
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.engines import EngineDriver, admission, load_runner, make_engine, random_tokens
from tests.helpers.tokenizer_files import byte_level

EOS = 2
END = "</think>"
TOKENIZER = byte_level()
GRAMMAR = Grammar(key=b"k" * 32, kind=GrammarKind.JSON_SCHEMA, text="")
SCHEMA = json.dumps(
    {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}
)


def ids(text: str) -> list[int]:
    found: list[int] = TOKENIZER.encode(text, add_special_tokens=False).ids
    return found


CLOSING = tuple(ids("\n" + END + "\n"))


@pytest.fixture(scope="module")
def info(tmp_path_factory: pytest.TempPathFactory) -> xgrammar.TokenizerInfo:
    folder = tmp_path_factory.mktemp("tokenizer")
    TOKENIZER.save(str(folder / "tokenizer.json"))
    read: xgrammar.TokenizerInfo = xgrammar_tokenizer_info(
        read_vocabulary(folder), vocab_size=512, stop_token_ids=[EOS]
    )
    return read


@pytest.fixture(scope="module")
def compiled(info: xgrammar.TokenizerInfo) -> xgrammar.CompiledGrammar:
    return xgrammar.GrammarCompiler(info).compile_json_schema(SCHEMA, any_whitespace=False)


class Maker:
    """Matchers of one grammar."""

    def __init__(self, info: xgrammar.TokenizerInfo, compiled: xgrammar.CompiledGrammar) -> None:
        self.token_bytes = list(info.decoded_vocab)
        self._compiled = compiled

    def __call__(self, *, has_grammar: bool = True, **fields: Any) -> ReasoningMatcher:
        return ReasoningMatcher(
            Reasoning(**{"end": END, **fields}),
            GrammarMatcher(self._compiled) if has_grammar else None,
            token_bytes=self.token_bytes,
            stop_token_ids=[EOS],
        )


@pytest.fixture
def make(info: xgrammar.TokenizerInfo, compiled: xgrammar.CompiledGrammar) -> Maker:
    return Maker(info, compiled)


def allowed(matcher: ReasoningMatcher) -> set[int]:
    bits = torch.full((2, 16), 7, dtype=torch.int32)
    matcher.fill(bits, 1)
    assert (bits[0] == 7).all()
    words = bits[1].numpy().view("uint32")
    return {token for token in range(512) if words[token // 32] >> (token % 32) & 1}


def feed(matcher: ReasoningMatcher, text: str) -> bool:
    return all(matcher.accept(token) for token in ids(text))


def test_while_it_thinks_all_but_the_end_of_the_output_is_allowed(make: Maker) -> None:
    matcher = make()
    assert feed(matcher, 'I think "<b>" </thin k> { }')
    assert allowed(matcher) == set(range(512)) - {EOS}
    assert allowed(make(has_grammar=False, max_tokens=9)) == set(range(512))
    assert not matcher.is_done and not matcher.forced(9, 0.5)


@pytest.mark.parametrize("thought", ["", "well", "<</think", "</think </thin"])
def test_the_grammar_holds_after_the_end_however_it_is_cut(make: Maker, thought: str) -> None:
    matcher = make()
    for character in thought + END:  # one token a byte
        assert matcher.accept(ids(character)[0])
    assert allowed(matcher) == {token for token in range(512) if make.token_bytes[token] in (b"{", b'{"')}
    assert not matcher.accept(ids("x")[0])
    assert feed(matcher, '{"ok": true}') and allowed(matcher) == {EOS}
    assert matcher.accept(EOS) and matcher.is_done


def test_what_a_token_has_behind_the_end_counts_for_the_answer(make: Maker) -> None:
    make.token_bytes[300], make.token_bytes[301], make.token_bytes[302] = b'nk>{"', b"nk>\n\n", b"nk>x"
    for token, fits, rest in (300, True, 'ok": false}'), (301, True, '{"ok": false}'), (302, False, ""):
        matcher = make()
        assert feed(matcher, "hm</thi")
        assert matcher.accept(token) == fits
        if fits:
            assert feed(matcher, rest) and allowed(matcher) == {EOS}


def test_a_special_token_may_be_the_end(make: Maker) -> None:
    make.token_bytes[3] = END.encode()
    matcher = make()
    assert feed(matcher, "hm") and matcher.accept(3) and feed(matcher, '{"ok": true}')


@pytest.mark.parametrize("budget", [0, 1, 5])
@pytest.mark.parametrize("has_grammar", [True, False])
def test_thoughts_that_had_their_tokens_are_closed_word_by_word(make: Maker, budget: int, has_grammar: bool) -> None:
    matcher = make(has_grammar=has_grammar, max_tokens=budget, closing_ids=CLOSING)
    for _ in range(budget):
        assert len(allowed(matcher)) > 500
        assert matcher.accept(ids("a")[0])
    for token in CLOSING:
        assert allowed(matcher) == {token}
        assert matcher.accept(token)
    if has_grammar:
        assert feed(matcher, '{"ok": true}')
    else:
        assert allowed(matcher) == set(range(512)) and feed(matcher, "anything") and not matcher.is_done


def test_thoughts_that_end_by_themselves_are_not_closed(make: Maker) -> None:
    matcher = make(max_tokens=100, closing_ids=CLOSING)
    assert feed(matcher, "so" + END + '{"ok": true}')


def test_another_token_than_the_closing_one_does_not_fit(make: Maker) -> None:
    matcher = make(max_tokens=0, closing_ids=CLOSING)
    assert not matcher.accept(ids("x")[0])


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> ModelRunner:
    return load_runner(write_checkpoint("qwen3", tmp_path_factory.mktemp("model")))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_in_the_engine_a_budget_ends_thoughts_and_the_answer_fits_its_schema(
    runner: ModelRunner, make: Maker, temperature: float
) -> None:
    def request(number: int, produced: list[int]) -> Any:
        reasoning = Reasoning(end=END, max_tokens=8 + number, closing_ids=CLOSING)
        fields: dict[str, Any] = {"temperature": temperature, "seed": number, "max_tokens": 120}
        matcher = make(max_tokens=reasoning.max_tokens, closing_ids=CLOSING)
        return admission(
            number, random_tokens(9, number), produced=produced, matcher=matcher,
            grammar=GRAMMAR, reasoning=reasoning, **fields,
        )  # fmt: skip

    driver = EngineDriver(make_engine(runner, eos=[EOS]))
    driver.admit(*(request(number, []) for number in range(1, 6)))
    driver.run()
    for number in range(1, 6):
        tokens = driver.tokens[number]
        assert driver.finish[number] is FinishReason.STOP
        thoughts = 8 + number
        assert tuple(tokens[thoughts : thoughts + len(CLOSING)]) == CLOSING
        assert "ok" in json.loads(TOKENIZER.decode(tokens[thoughts + len(CLOSING) : -1], skip_special_tokens=False))
        for cut in (3, thoughts + 2, thoughts + len(CLOSING) + 1):
            again = EngineDriver(make_engine(runner, eos=[EOS]))
            again.admit(request(number, tokens[:cut]))
            again.run()
            assert tokens[:cut] + again.tokens[number] == tokens
