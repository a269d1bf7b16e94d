from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from bough.common.sampling import SamplingParams
from bough.executor.sampling.noise import uniforms
from bough.kernels.gpu.sampling import SampleCode, SamplingFlag
from tests.kernels.gpu.sampling_cases import Pair, Rows, Step

VOCAB = 4096 + 17
DRAW = SamplingParams(temperature=0.9, seed=2**64 - 5)
GREEDY = SamplingParams(temperature=0.0)
FILTERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "top_k small": {"top_k": 7},
    "top_k of two": {"top_k": 2},
    "top_k large": {"top_k": 700},
    "top_k above the vocabulary": {"top_k": VOCAB},
    "top_k and top_p": {"top_k": 9, "top_p": 0.7},
    "large top_k and top_p": {"top_k": 700, "top_p": 0.8},
    "top_p": {"top_p": 0.9},
    "top_p low": {"top_p": 0.3},
    "top_p nearly 0": {"top_p": 1e-6},
    "top_p nearly 1": {"top_p": 0.999},
    "min_p": {"min_p": 0.05},
    "min_p and top_p": {"min_p": 0.02, "top_p": 0.95},
    "min_p and top_k": {"min_p": 0.3, "top_k": 12},
}


def _logits(kind: str, num_lines: int, vocab_size: int = VOCAB, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(num_lines, vocab_size, generator=generator)
    if kind == "flat":
        return normal
    if kind == "peaked":
        return normal * 4 - 3
    if kind == "coarse":
        # As a bf16 head gives them: many ties.
        return (normal * 2).bfloat16().float()
    return (normal > 0).float() * 0.5


def _check(step: Step, tokens: Tensor) -> None:
    assert step.tokens[: len(tokens)] == tokens.tolist()
    assert [record.token for record in step.records[: len(tokens)]] == tokens.tolist()


@pytest.mark.parametrize("kind", ["flat", "peaked", "coarse", "two values"])
def test_every_filter_draws_what_the_cpu_draws(kind: str, device: torch.device) -> None:
    requests = [replace(DRAW, **change, seed=2**63 + i) for i, change in enumerate(FILTERS.values())]
    pair = Pair(VOCAB, device, requests)
    for seed in range(2):
        step, expected = pair.step(_logits(kind, len(requests), seed=seed))
        _check(step, expected.tokens)


def test_features_alone_and_mixed_choose_what_the_cpu_chooses(device: torch.device) -> None:
    penalties: dict[str, Any] = {"presence_penalty": 0.7, "frequency_penalty": 0.4, "repetition_penalty": 1.3}
    bias: dict[str, Any] = {"logit_bias": ((3, 4.0), (4000, 6.0), (4110, 5.0), (7, -100.0))}
    minimum: dict[str, Any] = {"min_tokens": 2, "stop_token_ids": (11, 4111)}
    changes: list[dict[str, Any]] = [
        *({name: value} for name, value in penalties.items()),
        penalties,
        bias,
        minimum,
        {**penalties, **bias, **minimum, "top_k": 5, "top_p": 0.9, "min_p": 0.01},
    ]
    requests = [replace(base, **change) for base in (GREEDY, DRAW) for change in changes]
    pair = Pair(VOCAB, device, requests)
    logits = _logits("peaked", len(requests))
    # Tokens that would end are the likeliest, so that the minimum length is seen to matter.
    logits[:, 11] = logits[:, 4111] = logits.amax(1) + 1
    for _ in range(4):
        step, expected = pair.step(logits)
        _check(step, expected.tokens)
        for params, record, position in zip(requests, step.records, pair.positions, strict=False):
            stops = record.token in {2, 5, *params.stop_token_ids} and position > params.min_tokens
            assert record.code == (SampleCode.STOP if stops else SampleCode(0))


def test_masked_rows_choose_among_what_the_grammar_allows(device: torch.device) -> None:
    requests = [GREEDY, replace(DRAW, top_p=0.8), replace(GREEDY, min_tokens=9), DRAW]
    pair = Pair(VOCAB, device, requests)
    generator = torch.Generator().manual_seed(1)
    some = torch.rand(VOCAB, generator=generator) < 0.01
    some[2] = some[5] = False
    only_end = torch.zeros(VOCAB, dtype=torch.bool)
    only_end[5] = True
    step, expected = pair.step(_logits("flat", 4), allowed={0: some, 1: some, 2: only_end})
    _check(step, expected.tokens)
    assert some[step.tokens[0]] and some[step.tokens[1]]
    # A grammar outranks the minimum length: its mask alone counts.
    assert step.tokens[2] == 5


def test_a_whole_vocabulary_of_qwen3_is_sampled_as_on_the_cpu(device: torch.device) -> None:
    vocab_size = 151_936
    requests = [replace(DRAW, top_p=0.9), replace(DRAW, top_k=50, top_p=0.95), replace(DRAW, top_k=20, min_p=0.1), DRAW]
    pair = Pair(vocab_size, device, requests)
    step, expected = pair.step(_logits("peaked", 4, vocab_size))
    _check(step, expected.tokens)
    # Two chunks at most were too full for their candidates: the search of whole lines is the exception.
    assert pair.rows.workspace.num_candidates[:3].amax() <= 128


def test_ties_go_to_the_lowest_id_in_greedy_rows(device: torch.device) -> None:
    rows = Rows(VOCAB, device)
    rows.add(0, GREEDY)
    logits = torch.zeros(1, VOCAB)
    logits[0, [4100, 130, 131, 4000]] = 2.0
    assert rows.step(logits, [0], [0]).tokens == [130]


def test_ties_at_the_cut_of_top_k_stay(device: torch.device) -> None:
    rows = Rows(100, device)
    logits = torch.zeros(1, 100)
    logits[0, [10, 20, 30, 40]] = 9.0
    drawn = set()
    for seed in range(40):
        rows.add(0, replace(DRAW, top_k=2, seed=seed))
        drawn.update(rows.step(logits, [0], [0]).tokens)
    assert drawn == {10, 20, 30, 40}


def test_failed_lines_say_why_and_leave_the_others_alone(device: torch.device) -> None:
    requests = [replace(DRAW, top_p=0.9), GREEDY, replace(DRAW, presence_penalty=0.5, top_k=5), DRAW, GREEDY]
    logits = _logits("peaked", 5)
    pair = Pair(VOCAB, device, requests)
    logits[0] = -torch.inf
    logits[1, 4100] = torch.nan
    logits[2, 17] = torch.inf
    logits[3, :5] = torch.nan
    before = pair.rows.state.counts.clone()
    step, expected = pair.step(logits)
    assert sorted(expected.failed) == [0, 1, 2, 3]
    _check(step, expected.tokens)
    assert [record.code for record in step.records[:5]] == [
        SampleCode.NOTHING_ALLOWED,
        SampleCode.NOT_FINITE,
        SampleCode.NOT_FINITE,
        SampleCode.NOT_FINITE,
        SampleCode(0),
    ]
    assert torch.equal(pair.rows.state.counts, before)


def test_a_line_depends_on_no_other(device: torch.device) -> None:
    requests = [replace(DRAW, **change) for change in FILTERS.values()]
    logits = _logits("coarse", len(requests))
    together = Pair(VOCAB, device, requests).step(logits)[0].tokens
    rows = Rows(VOCAB, device, max_lines=len(requests))
    for line in (1, 5, 7, 12):
        rows.add(3, requests[line])
        assert rows.step(logits[line : line + 1], [3], [0]).tokens == together[line : line + 1]


def test_the_plain_variant_draws_as_the_filtered_one_without_filters(device: torch.device) -> None:
    rows = Rows(VOCAB, device)
    logits = _logits("flat", 2)
    rows.add(4, DRAW)
    rows.add(5, replace(DRAW, seed=77))
    plain = rows.step(logits, [4, 5], [3, 8], filtered=False)
    assert plain.tokens == rows.step(logits, [4, 5], [3, 8]).tokens


def test_draws_follow_the_distribution_and_the_noise_of_the_cpu(device: torch.device) -> None:
    vocab_size, draws = 5, 500
    rows = Rows(vocab_size, device, max_lines=draws, num_rows=draws)
    weights = torch.tensor([0.1, 0.4, 0.0, 0.3, 0.2])
    state = rows.state
    state.flags.fill_(int(SamplingFlag.DRAW))
    state.seed.copy_(torch.arange(draws, device=device) - 250)
    step = rows.step(weights.log().expand(draws, -1), list(range(draws)), [5] * draws, filtered=False)
    tokens = torch.tensor(step.tokens)
    u = uniforms(torch.arange(draws) - 250, torch.full((draws,), 5))
    assert torch.equal(tokens, torch.searchsorted(weights.double().cumsum(0), u, right=True))
    expected = weights * draws
    counts = torch.bincount(tokens, minlength=vocab_size)
    assert counts[2] == 0
    chi_square = ((counts - expected).square() / expected)[weights > 0].sum()
    # 3 degrees of freedom: 16.3 is passed by one in a thousand; the seeds are fixed.
    assert chi_square < 16.3
