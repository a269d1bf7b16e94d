from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from bough.common.sampling import SamplingParams
from bough.executor.sampling.noise import uniforms
from bough.kernels.gpu.sampling import (
    SampleCode,
    SamplingFlag,
    SamplingState,
    SamplingWorkspace,
    set_row_bias,
    set_row_counts,
)
from bough.kernels.gpu.sampling import sample as sample_lines
from bough.kernels.gpu.sampling_filter import ALL, BOUNDED, BRACKETED, STREAMED
from bough.kernels.gpu.sampling_select import uniform
from tests.kernels.gpu.sampling_cases import EOS, Pair, Rows

VOCAB = 4096 + 17
DRAW = SamplingParams(temperature=1.1, seed=3)
GREEDY = SamplingParams(temperature=0.0)


@triton.jit
def _uniform_kernel(seeds_ptr, positions_ptr, out_ptr):  # type: ignore[no-untyped-def]  # compiled by Triton
    i = tl.program_id(0)
    tl.store(out_ptr + i, uniform(tl.load(seeds_ptr + i), tl.load(positions_ptr + i)))


def test_noise_is_bit_for_bit_that_of_the_cpu(device: torch.device) -> None:
    seeds = torch.tensor([0, 0, 0, 1234567, -1, -(2**63), 2**63 - 1, 42])
    positions = torch.tensor([0, 1, 2, 0, 0, 7, 131_071, 2**31 - 1])
    out = torch.zeros(8, dtype=torch.float64, device=device)
    _uniform_kernel[(8,)](seeds.to(device), positions.to(torch.int32).to(device), out)
    assert out.tolist() == uniforms(seeds, positions).tolist()
    assert out[0] == (0xE220A8397B1DCDAF >> 11) * 2.0**-53
    assert out[3] == (0x599ED017FB08FC85 >> 11) * 2.0**-53


def test_records_carry_the_step_and_rows_advance(device: torch.device) -> None:
    rows = Rows(VOCAB, device)
    rows.add(6, GREEDY, prompt=[1, 2, 3])
    rows.add(2, GREEDY, prompt=[1])
    rows.step_counter.fill_(2**23 - 2)
    for i in range(4):
        logits = torch.zeros(3, VOCAB)
        logits[0, 100 + i] = logits[2, 200 + i] = 1.0
        step = rows.step(logits, [6, -1, 2], [i, 0, i], filtered=False)
        assert [record.token for record in (step.records[0], step.records[2])] == [100 + i, 200 + i]
        assert step.records[0].tag == step.records[2].tag == (2**23 - 2 + i) % 2**23
        assert rows.state.token[[6, 2]].tolist() == [100 + i, 200 + i]
        assert rows.state.position[[6, 2]].tolist() == [3 + i, 1 + i]
        assert rows.workspace.tokens[[0, 2]].tolist() == [100 + i, 200 + i]


def test_a_step_counter_beyond_31_bits_still_finds_its_slot(device: torch.device) -> None:
    rows = Rows(VOCAB, device)
    rows.add(0, GREEDY)
    rows.step_counter.fill_(2**31 - 1)
    logits = torch.zeros(1, VOCAB)
    rows.workspace.arrivals.zero_()
    ring, counter = rows.ring, rows.step_counter
    arguments = (rows.state, rows.workspace)
    line = torch.zeros(1, dtype=torch.int32, device=device)
    for step in (2**31 - 1, 2**31):
        ring.fill_(-1)
        sample_lines(logits.to(device), line, line, *arguments, ring=ring, step_counter=counter)
        assert int(ring[step % 4, 0]) >> 40 == step % 2**23


def test_stop_tokens_end_from_first_stop_on_and_masks_leave_the_minimum_to_the_host(device: torch.device) -> None:
    rows = Rows(VOCAB, device)
    logits = torch.zeros(1, VOCAB)
    logits[0, EOS[0]], logits[0, 77] = 3.0, 2.0
    rows.add(1, replace(GREEDY, min_tokens=2), prompt=[4])
    codes = [(step.records[0].token, step.records[0].code) for step in (rows.step(logits, [1], [p]) for p in (0, 1, 2))]
    assert codes == [(77, SampleCode(0)), (77, SampleCode(0)), (EOS[0], SampleCode.STOP)]
    rows.mask(0, 1, torch.ones(VOCAB, dtype=torch.bool))
    rows.state.first_stop[1] = 0
    record = rows.step(logits, [1], [0]).records[0]
    assert (record.token, record.code) == (EOS[0], SampleCode.STOP)


def test_counts_of_penalised_rows_rise_and_keep_the_mark_of_the_prompt(device: torch.device) -> None:
    rows = Rows(VOCAB, device)
    params = replace(GREEDY, frequency_penalty=0.25)
    rows.add(3, params, prompt=[9, 9], produced=[9, 8, 8])
    logits = torch.zeros(2, VOCAB)
    logits[0, 9] = logits[1, 9] = 50.0
    rows.add(4, GREEDY)
    rows.step(logits, [3, 4], [3, 0])
    counts = rows.state.counts
    assert counts[3, 9] == -(2**31) + 2 and counts[3, 8] == 2
    assert counts[3].count_nonzero() == 2 and counts[4].count_nonzero() == 0


def test_setting_the_wide_state_of_a_row_touches_that_row_only(device: torch.device) -> None:
    counts = torch.full((3, 50), 7, dtype=torch.int32, device=device)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(-1, 52, (2500,), generator=generator).to(torch.int32)
    set_row_counts(counts, 1, tokens.to(device), 20)
    produced = Counter(tokens[20:].tolist())
    prompt = set(tokens[:20].tolist())
    assert counts[1].tolist() == [produced[t] - (2**31 if t in prompt else 0) for t in range(50)]
    assert (counts[[0, 2]] == 7).all()
    bias = torch.ones(3, 50, device=device)
    set_row_bias(
        bias, 2, torch.tensor([4, 49], dtype=torch.int32, device=device), torch.tensor([-1.5, 2.0], device=device)
    )
    expected = torch.zeros(50)
    expected[4], expected[49] = -1.5, 2.0
    assert bias[2].cpu().equal(expected) and (bias[:2] == 1).all()


def test_each_kind_of_filter_takes_its_way_to_the_cut(device: torch.device) -> None:
    requests = {
        "min_p": (replace(DRAW, min_p=0.1), ALL.value),
        "top_k": (replace(DRAW, top_k=5, top_p=0.5), BOUNDED.value),
        "large top_k": (replace(DRAW, top_k=900), BRACKETED.value),
        "top_p": (replace(DRAW, top_p=0.9), BRACKETED.value),
        "both": (replace(DRAW, top_k=900, top_p=0.9), STREAMED.value),
    }
    pair = Pair(VOCAB, device, [params for params, _ in requests.values()])
    pair.step(torch.randn(5, VOCAB, generator=torch.Generator().manual_seed(5)))
    assert pair.rows.workspace.mode[:5].tolist() == [mode for _, mode in requests.values()]


@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p"),
    [
        (0, 0.9, 0.0),
        (0, 0.5, 0.01),
        (3, 1.0, 0.0),
        (45, 0.9, 0.0),
        (45, 0.9, 0.3),
        (700, 1.0, 0.0),
        (700, 0.9, 0.1),
        (12_292, 1.0, 0.0),
    ],
)
def test_the_cut_is_exactly_where_a_sort_puts_it(top_k: int, top_p: float, min_p: float, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(6)
    logits = torch.randn(6, 3 * 4096 + 5, generator=generator) * torch.tensor([[0.1], [0.5], [1], [2], [4], [8]])
    rows = Rows(logits.shape[1], device, max_lines=6)
    for row in range(6):
        rows.add(row, replace(DRAW, temperature=0.7, top_k=top_k, top_p=top_p, min_p=min_p))
    rows.step(logits, range(6), [0] * 6)
    ordered = logits.sort(descending=True).values
    weights = ((ordered - ordered[:, :1]).double() / 0.7).exp()
    allowed = top_k or logits.shape[1]
    reached = weights.cumsum(1)
    nucleus = (reached < top_p * reached[:, allowed - 1 : allowed]).sum(1).clamp(max=allowed - 1) + 1
    found = (ordered >= rows.workspace.cut[:6].cpu().unsqueeze(1)).sum(1)
    # What weighs nothing is never drawn, wherever the cut is.
    drawable = (weights.float() > 1e-38).sum(1)
    expected = torch.full((6,), allowed) if top_p == 1.0 else nucleus
    # A sum may be rounded past a neighbour, where thousands of weights are all but equal; a count may not.
    assert ((found.minimum(drawable) - expected.minimum(drawable)).abs() <= int(top_p < 1.0)).all()
    kept = (weights * (ordered >= rows.workspace.cut[:6].cpu().unsqueeze(1)) * (weights >= min_p)).sum(1)
    assert torch.allclose(rows.workspace.kept_sum[:6].cpu().double().sum(1), kept, rtol=1e-5)


def test_a_line_too_full_for_candidates_is_cut_at_the_same_place(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(9)
    logits = torch.randn(4, VOCAB, generator=generator)
    # Hundreds of equal logits where the cuts must be: more than a chunk's candidates.
    logits[:3, 1000:3000] = 1.0
    # Half of the mass lies within the second group of three; half of what the first two hold would be in the first.
    logits[3] *= 1e-3
    logits[3, :500] += 3.618
    logits[3, 500:1500] = 2.093
    logits[3, 1500:] += 2.0
    rows = Rows(VOCAB, device)
    for row, change in enumerate(({"top_k": 10}, {"top_p": 0.7}, {"top_k": 900}, {"top_p": 0.5})):
        rows.add(row, replace(DRAW, **change))  # type: ignore[arg-type]  # ints and floats in one
    logits[0, 1000:3000] = 9.0
    rows.step(logits, range(4), [0] * 4)
    assert (rows.workspace.num_candidates[1:4].amax(1) > 128).all()
    assert rows.workspace.cut[:4].tolist() == pytest.approx([9.0, 1.0, 1.0, 2.093])


@pytest.mark.parametrize("adjusted", [False, True])
def test_logprobs_come_from_the_raw_logits_as_on_the_cpu(adjusted: bool, device: torch.device) -> None:
    extra: dict[str, Any] = {"presence_penalty": 2.0, "logit_bias": ((4105, 9.0),), "min_tokens": 3} if adjusted else {}
    requests = [
        replace(params, top_logprobs=5, **extra) for params in (DRAW, GREEDY, replace(DRAW, top_p=0.9, seed=11))
    ]
    pair = Pair(VOCAB, device, [*requests, GREEDY])
    generator = torch.Generator().manual_seed(7)
    logits = (torch.randn(4, VOCAB, generator=generator) * 3).bfloat16().float()
    for _ in range(2):
        step, expected = pair.step(logits, logprobs=True)
        assert step.tokens[:4] == expected.tokens.tolist()
        assert step.logprobs is not None and expected.logprobs is not None
        for line in range(3):
            reference = expected.logprobs[line]
            assert reference is not None
            assert step.logprobs.logprobs[line].item() == pytest.approx(reference.logprob, abs=2e-6)
            assert step.logprobs.ranks[line].item() == reference.rank
            assert tuple(step.logprobs.top_ids[line].tolist()) == reference.top_ids
            assert step.logprobs.top_logprobs[line].tolist() == pytest.approx(reference.top_logprobs, abs=2e-6)


def test_fields_may_be_columns_of_one_arena(device: torch.device) -> None:
    separate = SamplingState.empty(4, VOCAB, device)
    names = [name for name in SamplingState.__slots__ if getattr(separate, name).dim() == 1 and name not in _CONTIGUOUS]
    arena = torch.zeros(4, len(names), dtype=torch.int32, device=device)
    columns = {
        name: arena[:, i] if getattr(separate, name).dtype == torch.int32 else arena.view(torch.float32)[:, i]
        for i, name in enumerate(names)
    }
    others = {name: getattr(separate, name) for name in SamplingState.__slots__ if name not in columns}
    rows = Rows(VOCAB, device, num_rows=4)
    rows.state = SamplingState(**columns, **others)
    rows.add(2, replace(DRAW, top_k=4, repetition_penalty=1.2), prompt=[1, 2])
    plain = Rows(VOCAB, device, num_rows=4)
    plain.add(2, replace(DRAW, top_k=4, repetition_penalty=1.2), prompt=[1, 2])
    logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(8))
    assert rows.step(logits, [2], [4]).tokens == plain.step(logits, [2], [4]).tokens


_CONTIGUOUS = ("seed", "token", "position")


def test_arguments_that_do_not_fit_are_named(device: torch.device) -> None:
    rows = Rows(64, device)
    line = torch.zeros(1, dtype=torch.int32, device=device)
    logits = torch.zeros(1, 64, device=device)

    def call(logits: Tensor = logits, lines: Tensor = line, positions: Tensor = line, ring: Tensor = rows.ring) -> None:
        sample_lines(logits, lines, positions, rows.state, rows.workspace, ring=ring, step_counter=rows.step_counter)

    with pytest.raises(ValueError, match="logits are"):
        call(logits=logits.double())
    with pytest.raises(ValueError, match="logits have 65 columns"):
        call(logits=torch.zeros(1, 65, device=device))
    with pytest.raises(ValueError, match="logits have 9 lines"):
        call(logits=torch.zeros(9, 64, device=device), ring=torch.zeros(4, 9, dtype=torch.int64, device=device))
    with pytest.raises(ValueError, match="rows is"):
        call(lines=line.long())
    with pytest.raises(ValueError, match="sampled_position is"):
        call(positions=torch.zeros(2, dtype=torch.int32, device=device))
    with pytest.raises(ValueError, match="power of two"):
        call(ring=torch.zeros(3, 8, dtype=torch.int64, device=device))
    with pytest.raises(ValueError, match="num_top is 21"):
        SamplingWorkspace(1, 64, device, num_top=21)
    with pytest.raises(ValueError, match="row is 16"):
        set_row_counts(rows.state.counts, 16, line, 0)
    with pytest.raises(ValueError, match="top_p has type"):
        fields = {name: getattr(rows.state, name) for name in SamplingState.__slots__}
        SamplingState(**{**fields, "top_p": rows.state.top_k})
    assert int(rows.state.flags[0]) == int(SamplingFlag(0))
