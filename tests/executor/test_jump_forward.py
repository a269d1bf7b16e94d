"""With drafts of what grammars force, outputs are those without them, in fewer steps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import xgrammar
from hypothesis import given
from hypothesis import strategies as st

from bough.common.sampling import FinishReason, Grammar, GrammarKind, Reasoning
from bough.common.vocab import read_vocabulary, xgrammar_tokenizer_info
from bough.executor.draft_rows import shares
from bough.executor.forced_text import ForcedText
from bough.executor.grammars import GrammarMatcher
from bough.executor.jump_forward import MAX_DRAFTS
from bough.executor.orders import Admission, Orders
from bough.executor.reasoning import ReasoningMatcher
from bough.executor.runner import ModelRunner
from bough.executor.sequence import SequenceStatus
from tests.executor.test_run_ahead import failing
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.engine_fuzz import Operations, check_nothing_is_lost, drive, random_operations
from tests.helpers.engines import (
    DelayedPipeline,
    EngineDriver,
    admission,
    load_runner,
    make_delayed_engine,
    make_engine,
    random_tokens,
)
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
    """Requests, with drafts or without; on an engine that waits for each step, or on one that runs ahead."""

    def __init__(
        self, runner: ModelRunner, compiled: xgrammar.CompiledGrammar, guesses: ForcedText, **limits: Any
    ) -> None:
        self._runner, self._compiled, self._guesses, self._limits = runner, compiled, guesses, limits

    def request(self, number: int, **sampling: Any) -> dict[str, Any]:
        return {"request": number, "prompt": random_tokens(7 * number, number), "seed": number, **sampling}

    def outcome(self, requests: list[dict[str, Any]], *, drafts: bool, plain: int = 0) -> tuple[EngineDriver, int]:
        """The driver after all have ended, and how many steps it took."""
        driver = EngineDriver(make_engine(self._runner, eos=[EOS], **self._limits))
        driver.admit(*self.admissions(requests, drafts=drafts, plain=plain))
        steps = 0
        while driver.step() is not None:
            steps += 1
        return driver, steps

    def ahead(
        self, requests: list[dict[str, Any]], *, drafts: bool = True, plain: int = 0, max_lines: int | None = None
    ) -> tuple[EngineDriver, DelayedPipeline]:
        """The driver of an engine that runs ahead after all have ended, and its pipeline."""
        engine, pipeline = make_delayed_engine(self._runner, eos=[EOS], max_lines=max_lines, **self._limits)
        driver = EngineDriver(engine)
        driver.admit(*self.admissions(requests, drafts=drafts, plain=plain))
        return driver.run(), pipeline

    def admissions(self, requests: list[dict[str, Any]], *, drafts: bool, plain: int = 0) -> list[Admission]:
        admissions: list[Admission] = []
        for fields in requests:
            matcher = GrammarMatcher(self._compiled, self._guesses if drafts else None)
            admissions.append(admission(**{"max_tokens": 200, "grammar": GRAMMAR, "matcher": matcher, **fields}))
        return admissions + [admission(900 + i, random_tokens(30, i), max_tokens=40) for i in range(plain)]


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
    ahead, pipeline = run.ahead(requests)
    for driver in (with_drafts, ahead):
        assert_same(driver, without)
        assert bool(driver.retracted) == bool(pages)
    assert pipeline.num_drafts > 20
    check_nothing_is_lost(ahead.engine)


class Prophet:
    """A matcher that allows everything and says that some tokens must follow."""

    def __init__(self, drafts: list[int]) -> None:
        self.drafts = drafts
        self.accepted: list[int] = []

    batched = None

    def suspect(self) -> None:
        raise AssertionError("is asked by itself")

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


# An engine that launches steps before it has the results of earlier ones.


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=lambda fields: "-".join(map(str, fields)))
def test_an_engine_that_runs_ahead_gives_the_same_in_fewer_steps(
    runner: ModelRunner, compiled: xgrammar.CompiledGrammar, guesses: ForcedText, sampling: dict[str, Any]
) -> None:
    run = Run(runner, compiled, guesses)
    requests = [run.request(number, **sampling) for number in range(1, 6)]
    expected, _ = run.outcome(requests, drafts=False, plain=3)
    without, slow = run.ahead(requests, drafts=False, plain=3)
    with_drafts, fast = run.ahead(requests, plain=3)
    assert_same(without, expected)
    assert_same(with_drafts, expected)
    assert slow.num_rests == 1 and not slow.num_drafts
    if "frequency_penalty" in sampling or "repetition_penalty" in sampling or sampling.get("max_tokens") == 1:
        assert fast.num_rests == 1 and not fast.num_drafts
    else:
        assert fast.num_rests > 1 and fast.num_drafts
    if "max_tokens" not in sampling and fast.num_drafts > 20:
        assert fast.num_launched < 0.9 * slow.num_launched
    check_nothing_is_lost(with_drafts.engine)


@pytest.mark.parametrize("limits", [{}, {"token_budget": 45}, {"max_lines": 42}])
def test_all_kinds_of_requests_share_the_steps_of_an_engine_that_runs_ahead(
    runner: ModelRunner, compiled: xgrammar.CompiledGrammar, guesses: ForcedText, limits: dict[str, int]
) -> None:
    max_lines = limits.pop("max_lines", None)
    run = Run(runner, compiled, guesses, **limits)
    requests = [run.request(number, **sampling) for number, sampling in enumerate(SAMPLINGS, 1)]
    requests += [{**run.request(5, temperature=1.0, seed=seed), "request": 100 + seed} for seed in range(4)]
    expected, _ = run.outcome(requests, drafts=False, plain=4)
    driver, pipeline = run.ahead(requests, plain=4, max_lines=max_lines)
    assert_same(driver, expected)
    assert pipeline.num_drafts > 20
    check_nothing_is_lost(driver.engine)


def test_a_request_may_be_cancelled_while_its_drafts_are_under_way(
    runner: ModelRunner, compiled: xgrammar.CompiledGrammar, guesses: ForcedText
) -> None:
    run = Run(runner, compiled, guesses)
    requests = [run.request(number, temperature=1.0) for number in range(1, 7)]
    expected, _ = run.outcome(requests, drafts=False)
    engine, _ = make_delayed_engine(runner, eos=[EOS])
    driver = EngineDriver(engine)
    driver.admit(*run.admissions(requests, drafts=True))
    cancelled = []
    for number in (2, 4, 5):
        while (sequence := engine._composer.get(number)) and sequence.status is not SequenceStatus.DRAFTING:
            driver.step()
        if sequence is not None:
            cancelled.append(number)
            driver.cancel(number)
    driver.run()
    assert cancelled
    for number, tokens in expected.tokens.items():
        known = driver.tokens[number]
        assert known == tokens[: len(known)] and (number in cancelled or known == tokens)
    check_nothing_is_lost(engine)


def test_thoughts_before_an_answer_have_no_drafts_and_their_answer_has(
    runner: ModelRunner, compiled: xgrammar.CompiledGrammar, guesses: ForcedText, info: xgrammar.TokenizerInfo
) -> None:
    closing = tuple(TOKENIZER.encode("</think>", add_special_tokens=False).ids)

    def requests(*, drafts: bool) -> list[Admission]:
        found = []
        for number in range(1, 5):
            thoughts = Reasoning(end="</think>", max_tokens=3 * number, closing_ids=closing)
            answer = GrammarMatcher(compiled, guesses if drafts else None)
            matcher = ReasoningMatcher(thoughts, answer, token_bytes=info.decoded_vocab, stop_token_ids=[EOS])
            fields: dict[str, Any] = {"temperature": 1.0, "seed": number, "grammar": GRAMMAR, "reasoning": thoughts}
            found.append(admission(number, random_tokens(9, number), matcher=matcher, max_tokens=200, **fields))
        return found

    waiting = EngineDriver(make_engine(runner, eos=[EOS]))
    waiting.admit(*requests(drafts=False))
    waiting.run()
    engine, pipeline = make_delayed_engine(runner, eos=[EOS])
    driver = EngineDriver(engine)
    driver.admit(*requests(drafts=True))
    driver.run()
    assert_same(driver, waiting)
    assert pipeline.num_drafts > 10


def prophets(runner: ModelRunner, *numbers: int, num_forced: int = 60) -> tuple[list[Admission], EngineDriver]:
    """Requests whose matchers know what will be sampled, and what that is."""
    plain = [admission(number, random_tokens(25, number), max_tokens=60) for number in numbers]
    alone = EngineDriver(make_engine(runner))
    alone.admit(*plain)
    alone.run()
    return [
        admission(
            number,
            random_tokens(25, number),
            max_tokens=60,
            grammar=GRAMMAR,
            matcher=Prophet(alone.tokens[number][:num_forced]),
        )
        for number in numbers
    ], alone


def test_nobody_waits_where_nothing_is_forced_any_more(runner: ModelRunner) -> None:
    requests, expected = prophets(runner, 1, 2, num_forced=20)
    engine, pipeline = make_delayed_engine(runner)
    driver = EngineDriver(engine)
    driver.admit(*requests)
    driver.run()
    assert driver.tokens == expected.tokens
    # Prompts, then a step with drafts of all but their first token, then one that both take part in. No more after it.
    assert (pipeline.num_rests, pipeline.num_drafts) == (3, 2 * 19)


@pytest.mark.usefixtures("caplog")
def test_a_step_with_drafts_that_cannot_be_launched_ends_the_prompts_in_it_and_the_drafts_come_again(
    runner: ModelRunner,
) -> None:
    requests, expected = prophets(runner, 1, 2, 3)
    broken = failing(runner, lambda batch: len(batch.logit_rows) > batch.num_rows and len(batch.tokens) > 150)
    engine, pipeline = make_delayed_engine(broken)
    driver = EngineDriver(engine)
    driver.admit(*requests)
    while not pipeline.num_drafts:
        driver.step()
    driver.admit(admission(9, random_tokens(200, 9), max_tokens=5))
    driver.run()
    assert driver.failures.keys() == {9}
    assert {number: driver.tokens[number] for number in (1, 2, 3)} == expected.tokens
    check_nothing_is_lost(engine)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_operations_with_grammars_end_with_the_tokens_of_an_engine_without_drafts(
    runner: ModelRunner, compiled: xgrammar.CompiledGrammar, guesses: ForcedText, seed: int
) -> None:
    operations = random_operations(seed, 500, num_rows=10)

    def constrained(drafts: bool) -> Operations:
        """Two thirds of the requests have a grammar."""

        def of(entry: Admission) -> Admission:
            if entry.request % 3 == 0:
                return entry
            matcher = GrammarMatcher(compiled, guesses if drafts else None)
            return replace(entry, matcher=matcher, sampling=replace(entry.sampling, grammar=GRAMMAR))

        items = [[of(entry) for entry in item] if isinstance(item, list) else item for item in operations.items]
        return replace(operations, items=items)

    small = load_runner(runner.config.model_dir, num_pages=26)
    expected = drive(make_engine(small, eos=[EOS], max_rows=10, token_budget=64), constrained(drafts=False))
    engine, pipeline = make_delayed_engine(small, eos=[EOS], max_rows=10, token_budget=64, max_lines=16)
    driver = drive(engine, constrained(drafts=True))
    assert driver.failures == expected.failures
    for request in operations.requests:
        one, other = driver.tokens.get(request, []), expected.tokens.get(request, [])
        length = len(one) if request not in operations.cancelled else min(len(one), len(other))
        assert one[:length] == other[:length]
        assert request in operations.cancelled or one == other
    assert pipeline.num_drafts > 50 and driver.retracted


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(-5, 200))
def test_no_row_has_another_draft_before_all_have_one_as_far_behind_their_last_token(
    wanted: list[int], room: int
) -> None:
    found = shares(wanted, room)
    assert sum(found) == min(sum(wanted), max(room, 0))
    assert all(0 <= number <= most for number, most in zip(found, wanted, strict=True))
    least = min((number for number, most in zip(found, wanted, strict=True) if number < most), default=1 << 30)
    assert all(number <= least + 1 for number in found)
