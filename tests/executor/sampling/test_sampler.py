from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bough.common.sampling import SamplingParams
from bough.executor.sampling import GrammarMask, Sampler, SampleResult
from tests.executor.sampling.reference import filtered, penalise, splitmix64

VOCAB = 300
ROWS = 32
EOS = (2,)
GREEDY = SamplingParams(temperature=0.0, max_tokens=50)
PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.8, 1.5]),
    top_k=st.sampled_from([0, 1, 5, 40]),
    top_p=st.sampled_from([1.0, 0.9, 0.4]),
    min_p=st.sampled_from([0.0, 0.05]),
    seed=st.integers(0, 2**64 - 1),
    presence_penalty=st.sampled_from([0.0, 0.0, 1.0]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.4]),
    min_tokens=st.sampled_from([0, 0, 4]),
    logit_bias=st.sampled_from([(), ((5, 3.0), (7, -100.0))]),
    top_logprobs=st.sampled_from([None, None, 0, 3]),
)


def _sampler() -> Sampler:
    return Sampler(max_rows=ROWS, vocab_size=VOCAB, eos_token_ids=EOS)


def _model(tokens: list[int]) -> torch.Tensor:
    """Logits that depend on the tokens so far and nothing else."""
    generator = torch.Generator().manual_seed(hash(tuple(tokens)) % 2**31)
    return torch.randn(VOCAB, generator=generator) * 3


def _step(sampler: Sampler, sequences: dict[int, list[int]], rows: list[int], num_prompt: int) -> SampleResult:
    logits = torch.stack([_model(sequences[row]) for row in rows])
    positions = torch.tensor([len(sequences[row]) - num_prompt for row in rows])
    result = sampler.sample(logits, torch.tensor(rows), positions)
    for row, token in zip(rows, result.tokens.tolist(), strict=True):
        sequences[row].append(token)
    return result


def _alone(params: SamplingParams, prompt: list[int], steps: int, row: int = 0) -> list[int]:
    sampler, sequences = _sampler(), {row: list(prompt)}
    sampler.add(row, params, prompt)
    for _ in range(steps):
        _step(sampler, sequences, [row], len(prompt))
    return sequences[row]


@settings(deadline=None, max_examples=25)
@given(params=st.lists(PARAMS, min_size=ROWS, max_size=ROWS), order=st.randoms(use_true_random=False))
def test_a_request_gets_the_same_tokens_alone_and_in_any_batch(params: list[SamplingParams], order: Random) -> None:
    prompts = {row: [row, 5, row + 1] for row in range(ROWS)}
    sampler, sequences = _sampler(), {row: list(prompt) for row, prompt in prompts.items()}
    for row in range(ROWS):
        sampler.add(row, params[row], prompts[row])
    for _ in range(5):
        rows = list(range(ROWS))
        order.shuffle(rows)
        _step(sampler, sequences, rows, 3)
    for row in range(0, ROWS, 4):
        assert _alone(params[row], prompts[row], 5, row=ROWS - 1 - row) == sequences[row]


@settings(deadline=None, max_examples=50)
@given(params=PARAMS, retract_at=st.integers(1, 7), new_row=st.integers(0, 3))
def test_a_request_goes_on_unchanged_after_its_state_was_re_created(
    params: SamplingParams, retract_at: int, new_row: int
) -> None:
    prompt = [4, 4, 9]
    undisturbed = _alone(params, prompt, 8)
    sampler, sequences = _sampler(), {0: list(prompt)}
    sampler.add(0, params, prompt)
    for _ in range(retract_at):
        _step(sampler, sequences, [0], 3)
    sampler.remove(0)
    sampler.add(0, replace(params, seed=7, presence_penalty=2.0), [1])  # a stranger takes the row in between
    sampler.remove(0)
    tokens = sequences.pop(0)
    sampler.add(new_row, params, prompt, tokens[3:])
    sequences[new_row] = tokens
    for _ in range(8 - retract_at):
        _step(sampler, sequences, [new_row], 3)
    assert sequences[new_row] == undisturbed


@settings(deadline=None, max_examples=100)
@given(params=PARAMS, position=st.integers(0, 6), seed=st.integers(0, 1000))
def test_a_step_equals_the_naive_one(params: SamplingParams, position: int, seed: int) -> None:
    logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3
    prompt, produced = [3, 8, 8], [8, 11, 12, 11, 5, 40][:position]
    changed = penalise(logits[0].tolist(), params, prompt, produced)
    for token, bias in params.logit_bias:
        changed[token] += bias
    if position < params.min_tokens:
        changed[EOS[0]] = -float("inf")
    sampler = _sampler()
    sampler.add(1, params, prompt, produced)
    token = int(sampler.sample(logits, torch.tensor([1]), torch.tensor([position])).tokens)
    if params.temperature == 0.0 or params.top_k == 1:
        assert token == int(np.argmax(np.array(changed, dtype=np.float32)))
        return
    cumulative = np.cumsum(filtered(changed, params))
    uniform = (splitmix64(params.seed, position) >> 11) * 2.0**-53
    before = cumulative[token - 1] if token else 0.0
    assert before - 1e-6 <= uniform <= cumulative[token] + 1e-6
    assert cumulative[token] > before


def test_drawn_tokens_follow_the_distribution() -> None:
    params = SamplingParams(temperature=1.3, top_k=30, top_p=0.95, min_p=0.02, seed=42)
    logits = torch.randn(VOCAB, generator=torch.Generator().manual_seed(0)) * 2
    expected = filtered(logits.tolist(), params)
    sampler, draws = _sampler(), 16_000
    counts = np.zeros(VOCAB)
    for row in range(ROWS):
        sampler.add(row, replace(params, seed=row), [1])
    for position in range(draws // ROWS):
        result = sampler.sample(logits.repeat(ROWS, 1), torch.arange(ROWS), torch.full((ROWS,), position))
        counts += np.bincount(result.tokens.numpy(), minlength=VOCAB)
    kept = expected > 0
    assert counts[~kept].sum() == 0
    chi_square = ((counts[kept] - draws * expected[kept]) ** 2 / (draws * expected[kept])).sum()
    degrees = kept.sum() - 1
    assert chi_square < degrees + 4 * np.sqrt(2 * degrees)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("params", [GREEDY, SamplingParams(top_p=0.9, top_logprobs=2, presence_penalty=1.0)])
def test_a_broken_line_fails_alone_and_changes_no_other(bad: float, params: SamplingParams) -> None:
    logits = torch.randn(4, VOCAB, generator=torch.Generator().manual_seed(3))
    whole, broken = _sampler(), _sampler()
    for sampler in (whole, broken):
        for row in range(4):
            sampler.add(row, replace(params, seed=row), [1])
    rows, positions = torch.arange(4), torch.zeros(4, dtype=torch.int64)
    spoilt = logits.clone()
    spoilt[2] = bad
    expected, got = whole.sample(logits, rows, positions), broken.sample(spoilt, rows, positions)
    assert list(got.failed) == [2]
    assert not expected.failed
    assert got.tokens[2] == 0
    assert got.tokens[[0, 1, 3]].tolist() == expected.tokens[[0, 1, 3]].tolist()
    if expected.logprobs is not None and got.logprobs is not None:
        assert got.logprobs[2] is None
        assert [got.logprobs[i] for i in (0, 1, 3)] == [expected.logprobs[i] for i in (0, 1, 3)]


def test_a_single_nan_fails_its_line_with_the_reason() -> None:
    sampler = _sampler()
    sampler.add(0, SamplingParams(), [1])
    logits = torch.zeros(1, VOCAB)
    logits[0, 250] = torch.nan
    result = sampler.sample(logits, torch.tensor([0]), torch.tensor([0]))
    assert "not finite" in result.failed[0]
    assert result.tokens.tolist() == [0]


def test_a_grammar_that_leaves_nothing_fails_its_line_with_the_reason() -> None:
    sampler = _sampler()
    for row in (0, 1):
        sampler.add(row, SamplingParams(), [1])
    mask = GrammarMask(bits=torch.zeros(1, 10, dtype=torch.int32), lines=[1])
    result = sampler.sample(torch.zeros(2, VOCAB), torch.tensor([0, 1]), torch.tensor([0, 0]), mask)
    assert list(result.failed) == [1]
    assert "no token is allowed" in result.failed[1]


@pytest.mark.parametrize(
    "params", [GREEDY, SamplingParams(top_k=1, seed=9), SamplingParams(temperature=0.0, top_p=0.1)]
)
def test_greedy_takes_the_lowest_id_on_ties(params: SamplingParams) -> None:
    sampler = _sampler()
    sampler.add(5, params, [1])
    logits = torch.zeros(1, VOCAB)
    logits[0, [130, 260]] = 1.0
    assert sampler.sample(logits, torch.tensor([5]), torch.tensor([0])).tokens.tolist() == [130]


def test_logprobs_come_from_the_raw_logits() -> None:
    sampler = _sampler()
    params = SamplingParams(temperature=0.0, top_logprobs=1, logit_bias=((4, 100.0),), repetition_penalty=1.9)
    sampler.add(0, params, [1])
    logits = torch.linspace(-3.0, 3.0, VOCAB).unsqueeze(0)
    raw = torch.log_softmax(logits, -1)[0]
    result = sampler.sample(logits, torch.tensor([0]), torch.tensor([0]))
    assert result.tokens.tolist() == [4]
    assert result.logprobs is not None
    entry = result.logprobs[0]
    assert entry is not None
    assert (entry.rank, entry.top_ids) == (VOCAB - 4, (VOCAB - 1,))
    assert (entry.logprob, *entry.top_logprobs) == pytest.approx((float(raw[4]), float(raw[-1])), abs=1e-5)


def test_a_refused_row_keeps_no_state() -> None:
    sampler = _sampler()
    with pytest.raises(ValueError, match="logit_bias"):
        sampler.add(0, SamplingParams(presence_penalty=2.0, logit_bias=((VOCAB, 1.0),)), [1], [6])
    logits = torch.zeros(1, VOCAB)
    logits[0, 6] = 1.0
    assert sampler.sample(logits, torch.tensor([0]), torch.tensor([0])).tokens.tolist() == [6]


def test_an_empty_step_gives_no_tokens() -> None:
    empty = torch.empty(0, dtype=torch.int64)
    assert _sampler().sample(torch.empty(0, VOCAB), empty, empty).tokens.shape == (0,)


def test_logits_of_another_vocabulary_are_refused() -> None:
    with pytest.raises(ValueError, match=f"9 columns, the vocabulary has {VOCAB}"):
        _sampler().sample(torch.zeros(1, 9), torch.tensor([0]), torch.tensor([0]))
