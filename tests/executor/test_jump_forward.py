"""With drafts of what grammars force, outputs are those without them, in fewer steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import xgrammar

from bough.common.sampling import FinishReason, Grammar, GrammarKind
from bough.common.vocab import read_vocabulary, xgrammar_tokenizer_info
from bough.executor.forced_text import ForcedText
from bough.executor.grammars import GrammarMatcher
from bough.executor.jump_forward import MAX_DRAFTS
from bough.executor.orders import Admission, Orders
from bough.executor.runner import ModelRunner
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.engines import EngineDriver, admission, load_runner, make_engine, random_tokens
from tests.helpers.tokenizer_files import byte_level

EOS = 2
NAMES = ("first_name_of_the_person", "number_of_children_at_home", "kind_of_the_residence")
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            NAMES[0]: {"type": "string", "maxLength": 6},
            NAMES[1]: {"type": "integer", "minimum": 0, "maximum": 99},
            NAMES[2]: {"enum": ["house", "flat in a house of many flats"]},
        },
        "required": list(NAMES),
        "additionalProperties": False,
    }
)
GRAMMAR = Grammar(key=b"k" * 32, kind=GrammarKind.JSON_SCHEMA, text=SCHEMA)
TOKENIZER = byte_level()


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> ModelRunner:
    return load_runner(write_checkpoint("qwen3", tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    TOKENIZER.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def info(tokenizer_dir: Path) -> xgrammar.TokenizerInfo:
    read: xgrammar.TokenizerInfo = xgrammar_tokenizer_info(
        read_vocabulary(tokenizer_dir), vocab_size=512, stop_token_ids=[EOS]
    )
    return read


@pytest.fixture(scope="module")
def compiled(info: xgrammar.TokenizerInfo) -> xgrammar.CompiledGrammar:
    return xgrammar.GrammarCompiler(info).compile_json_schema(SCHEMA, any_whitespace=False)


@pytest.fixture
def guesses(tokenizer_dir: Path, info: xgrammar.TokenizerInfo) -> ForcedText:
    return ForcedText(tokenizer_dir, info.decoded_vocab, adds_prefix_space=False)


class Run:
    """Requests, with drafts or without."""

    def __init__(
        self, runner: ModelRunner, compiled: xgrammar.CompiledGrammar, guesses: ForcedText, **limits: Any
    ) -> None:
        self._runner, self._compiled, self._guesses, self._limits = runner, compiled, guesses, limits

    def request(self, number: int, **sampling: Any) -> dict[str, Any]:
        return {"request": number, "prompt": random_tokens(7 * number, number), "seed": number, **sampling}

    def outcome(self, requests: list[dict[str, Any]], *, drafts: bool, plain: int = 0) -> tuple[EngineDriver, int]:
        """The driver after all have ended, and how many steps it took."""
        driver = EngineDriver(make_engine(self._runner, eos=[EOS], **self._limits))
        admissions: list[Admission] = []
        for fields in requests:
            matcher = GrammarMatcher(self._compiled, self._guesses if drafts else None)
            admissions.append(admission(**{"max_tokens": 200, "grammar": GRAMMAR, "matcher": matcher, **fields}))
        admissions += [admission(900 + i, random_tokens(30, i), max_tokens=40) for i in range(plain)]
        driver.admit(*admissions)
        steps = 0
        while driver.step() is not None:
            steps += 1
        return driver, steps


def assert_same(one: EngineDriver, other: EngineDriver) -> None:
    assert one.tokens == other.tokens
    assert one.finish == other.finish
    assert one.failures == other.failures
    assert one.logprobs.keys() == other.logprobs.keys()
    for request, entries in one.logprobs.items():
        for mine, theirs in zip(entries, other.logprobs[request], strict=True):
            assert mine.top_ids == theirs.top_ids
            assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-4)


SAMPLINGS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 1.5, "top_p": 0.9},
    {"temperature": 0.7, "top_k": 5, "top_logprobs": 3},
    {"temperature": 0.0, "top_logprobs": 0},
    {"temperature": 1.0, "min_tokens": 20},
    {"temperature": 1.0, "logit_bias": ((40, 3.0), (90, -100.0))},
    {"temperature": 1.0, "max_tokens": 23},
    {"temperature": 0.0, "max_tokens": 1},
    {"temperature": 1.0, "stop_token_ids": tuple(range(70, 90))},
    {"temperature": 1.0, "frequency_penalty": 0.5},
    {"temperature": 0.0, "repetition_penalty": 1.3},
]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=lambda fields: "-".join(map(str, fields)))
def test_outputs_are_the_same_in_fewer_steps(
    runner: ModelRunner, compiled: xgrammar.CompiledGrammar, guesses: ForcedText, sampling: dict[str, Any]
) -> None:
    run = Run(runner, compiled, guesses)
    requests = [run.request(number, **sampling) for number in range(1, 6)]
    without, steps = run.outcome(requests, drafts=False, plain=3)
    with_drafts, fewer = run.outcome(requests, drafts=True, plain=3)
    assert_same(with_drafts, without)
    has_penalty = "frequency_penalty" in sampling or "repetition_penalty" in sampling
    if has_penalty or "max_tokens" in sampling:
        assert fewer <= steps
    elif "stop_token_ids" not in sampling:
        assert fewer < 0.8 * steps


def test_all_kinds_of_requests_share_a_batch_with_drafts(
    runner: ModelRunner, compiled: xgrammar.CompiledGrammar, guesses: ForcedText
) -> None:
    run = Run(runner, compiled, guesses)
    requests = [run.request(number, **sampling) for number, sampling in enumerate(SAMPLINGS, 1)]
    without, _ = run.outcome(requests, drafts=False, plain=4)
    with_drafts, _ = run.outcome(requests, drafts=True, plain=4)
    assert_same(with_drafts, without)


@pytest.mark.parametrize(
    "limits", [{"token_budget": 45}, {"token_budget": 300, "num_pages": 18}], ids=["budget", "pages"]
)
def test_few_tokens_a_step_and_few_pages_change_nothing(
    compiled: xgrammar.CompiledGrammar, guesses: ForcedText, tmp_path: Any, limits: dict[str, int]
) -> None:
    pages = {"num_pages": limits.pop("num_pages")} if "num_pages" in limits else {}
    runner = load_runner(write_checkpoint("qwen3", tmp_path / "model"), **pages)
    run = Run(runner, compiled, guesses, **limits)
    requests = [run.request(number, temperature=1.0) for number in range(1, 13)]
    without, _ = run.outcome(requests, drafts=False)
    with_drafts, _ = run.outcome(requests, drafts=True)
    assert_same(with_drafts, without)
    assert bool(with_drafts.retracted) == bool(pages)


class Prophet:
    """A matcher that allows everything and says that some tokens must follow."""

    def __init__(self, drafts: list[int]) -> None:
        self.drafts = drafts
        self.accepted: list[int] = []

    batched = None

    def fill(self, bitmask: Any, line: int) -> None:
        pass

    def accept(self, token: int) -> bool:
        self.accepted.append(token)
        return True

    def forced(self, most: int, least_chance: float) -> list[int]:
        return self.drafts[len(self.accepted) :][:most]

    def rollback(self, num_tokens: int) -> None:
        del self.accepted[len(self.accepted) - num_tokens :]

    @property
    def is_done(self) -> bool:
        return False


def test_tokens_up_to_the_first_wrong_draft_count_and_the_cache_holds_no_others(runner: ModelRunner) -> None:
    prompt = random_tokens(37, 1)
    alone = EngineDriver(make_engine(runner))
    alone.admit(admission(1, prompt, max_tokens=120))
    alone.run()
    right = alone.tokens[1]
    wrong = [token if place % 21 else (token + 1) % 512 for place, token in enumerate(right, 1)]
    driver = EngineDriver(make_engine(runner))
    driver.admit(admission(1, prompt, max_tokens=120, matcher=Prophet(wrong), grammar=GRAMMAR))
    reports = 0
    while driver.step() is not None:
        reports += 1
    assert driver.tokens[1] == right and driver.finish[1] is FinishReason.LENGTH
    assert reports <= 3 + 2 * 120 // 21  # a step up to each wrong one, and one for the token in its place
    driver.admit(admission(2, prompt + right[:100], max_tokens=20))
    driver.run()
    assert driver.tokens[2] == right[100:] and driver.cached[2] >= 128


def test_no_more_is_tried_at_once_than_the_limit(runner: ModelRunner) -> None:
    prompt = random_tokens(5, 2)
    alone = EngineDriver(make_engine(runner))
    alone.admit(admission(1, prompt, max_tokens=100))
    alone.run()
    driver = EngineDriver(make_engine(runner))
    driver.admit(admission(1, prompt, max_tokens=100, matcher=Prophet(alone.tokens[1]), grammar=GRAMMAR))
    most = 0
    before = 0
    while driver.step() is not None:
        most, before = max(most, len(driver.tokens[1]) - before), len(driver.tokens[1])
    assert driver.tokens == alone.tokens and most == MAX_DRAFTS + 1


def test_a_request_may_be_cancelled_between_steps_with_drafts(
    runner: ModelRunner, compiled: xgrammar.CompiledGrammar, guesses: ForcedText
) -> None:
    run = Run(runner, compiled, guesses)
    engine = make_engine(runner, eos=[EOS])
    free = engine.gauges().pages_free + engine.gauges().pages_cached
    driver = EngineDriver(engine)
    for number in range(1, 6):
        fields = run.request(number, temperature=1.0)
        driver.admit(admission(**fields, max_tokens=200, grammar=GRAMMAR, matcher=GrammarMatcher(compiled, guesses)))
    for number in range(1, 6):
        for _ in range(4):
            driver.step()
        driver.apply(Orders(cancels=[number]))
    driver.run()
    gauges = engine.gauges()
    assert engine.is_idle and gauges.pages_free + gauges.pages_cached == free
