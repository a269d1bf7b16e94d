"""Attention of chunks by FlashInfer equals the reference and our kernel, one plan after the other and in the engine."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bough.executor.attention.flashinfer_backend import FlashInferPlan, FlashInferPrefill, HeadShape
from bough.executor.attention.prefill import ChunkPages, chunk_pages
from bough.executor.gpu import large_steps, steps
from bough.executor.gpu.kvcache import PagedLayerCache
from bough.executor.step import StepArrays
from bough.kernels.gpu.attention_checks import PAGE_SIZE
from bough.kernels.gpu.attention_prefill import paged_prefill_attention
from tests.gpu.test_numbers import LENGTHS, NUM_TOKENS, NUM_TOP, WORSE, Reference, rms
from tests.helpers.checkpoints import RECIPES, Recipe, write_checkpoint
from tests.helpers.engines import EngineDriver, admission, make_gpu_engine, random_tokens
from tests.kernels.gpu.attention_cases import AttentionCase, assert_close, make_case, plan_of

pytestmark = pytest.mark.gpu

DEVICE = torch.device("cuda", 0)
HEAD_DIM = 128
SENTINEL = 7.0
# Whole prompts and chunks after a cached prefix, with borders of pages and of tiles inside, at the end and just behind.
COLD = [(length, length) for length in (1, 15, 16, 17, 33, 127, 128, 129, 300)]
CONTINUED = [(1, 77), (1, 16), (17, 130), (16, 32), (15, 32), (64, 200), (129, 1000), (128, 256)]


@pytest.fixture(params=["fa3", "fa2"])
def kernels(request: pytest.FixtureRequest) -> str:
    """FlashInfer's kernels for Hopper, and those for GPUs before, which a Hopper runs as well."""
    return str(request.param)


def planner_for(num_heads: int, num_kv_heads: int, kernels: str) -> FlashInferPrefill:
    shape = HeadShape(num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=HEAD_DIM, dtype=torch.bfloat16)
    with pytest.MonkeyPatch.context() as patch:  # not for longer: others ask for the capability too
        patch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0) if kernels == "fa3" else (8, 0))
        planner = FlashInferPrefill(shape, DEVICE)
    assert planner.kernels == kernels
    return planner


def case_of(lines: list[tuple[int, int]], heads: tuple[int, int], padding_tokens: int = 0) -> AttentionCase:
    return make_case(lines, DEVICE, heads=heads, head_dim=HEAD_DIM, dtype=torch.bfloat16, padding_tokens=padding_tokens)


def chunks_of(case: AttentionCase, num_decodes: int = 0) -> ChunkPages:
    """What the host knows of a case whose first lines are decodes."""
    query_start = case.query_start.cpu().numpy()
    nothing = np.zeros(int(query_start[-1]), np.int64)
    rows = case.rows.cpu().numpy().astype(np.int64)
    arrays = StepArrays(
        tokens=nothing,
        positions=nothing,
        slots=nothing,
        query_start=query_start,
        context_lens=case.context_lens.cpu().numpy(),
        page_table=case.page_table.cpu().numpy()[rows],
        logit_rows=nothing,
        rows=rows,
        num_decode_rows=num_decodes,
    )
    return chunk_pages(arrays, PAGE_SIZE)


def attend(case: AttentionCase, plan: FlashInferPlan) -> Tensor:
    out = torch.full_like(case.queries, SENTINEL)
    spec: Any = SimpleNamespace(scale=case.scale)
    plan.attend(case.queries, spec, PagedLayerCache(keys=case.keys, values=case.values), out)
    return out


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (8, 2), (8, 1)])
@pytest.mark.parametrize("lines", [COLD, CONTINUED, [*CONTINUED, *COLD]], ids=["cold", "continued", "both"])
def test_chunks_equal_the_reference_and_our_kernel_and_nothing_behind_a_context_is_seen(
    lines: list[tuple[int, int]], heads: tuple[int, int], kernels: str
) -> None:
    case = case_of(lines, heads)
    found = attend(case, planner_for(*heads, kernels).plan(chunks_of(case)))
    assert_close(found, case.expected())
    ours = paged_prefill_attention(
        case.queries,
        case.keys,
        case.values,
        case.page_table,
        plan_of(case),
        scale=case.scale,
        window=None,
        out=torch.empty_like(case.queries),
    )
    assert_close(found, ours.double())


@pytest.mark.parametrize("num_lines", [1, 4])
def test_chunks_of_thousands_of_tokens_equal_the_reference(num_lines: int, kernels: str) -> None:
    case = case_of([(2048 // num_lines, 4096 // num_lines)] * num_lines, (4, 2))
    assert_close(attend(case, planner_for(4, 2, kernels).plan(chunks_of(case))), case.expected())


def test_tokens_of_decodes_and_of_padding_are_left_alone(kernels: str) -> None:
    case = case_of([(1, 50), (1, 16), (1, 1), (40, 77), (1, 20), (33, 33)], (4, 2), padding_tokens=9)
    expected = case.expected()
    expected[:3] = SENTINEL
    expected[-9:] = SENTINEL
    assert_close(attend(case, planner_for(4, 2, kernels).plan(chunks_of(case, num_decodes=3))), expected)


def test_steps_planned_ahead_of_the_gpu_each_have_their_own_plan(kernels: str) -> None:
    random = np.random.default_rng(0)
    planner = planner_for(4, 2, kernels)
    cases = []
    for _ in range(12):
        lengths = random.integers(1, 200, random.integers(1, 6)).tolist()
        cases.append(case_of([(length, length + int(random.integers(0, 300))) for length in lengths], (4, 2)))
    chunks = [chunks_of(case) for case in cases]
    for case, chunk in zip(cases, chunks, strict=True):
        attend(case, planner.plan(chunk))  # the first time memory is allocated, and kernels are loaded
    torch.cuda.synchronize()
    # About half a second, in which all is planned and queued that can be.
    torch.cuda._sleep(1_000_000_000)  # type: ignore[no-untyped-call]
    asleep = torch.cuda.Event()  # type: ignore[no-untyped-call]
    asleep.record()
    found = []
    for index, (case, chunk) in enumerate(zip(cases, chunks, strict=True)):
        found.append(attend(case, planner.plan(chunk)))
        if index == 3:
            assert not asleep.query(), "a plan has waited for the GPU"  # type: ignore[no-untyped-call]
    for case, out in zip(cases, found, strict=True):
        assert_close(out, case.expected())


class Served:
    """Counts the attentions of layers that FlashInfer serves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        plain = FlashInferPlan.attend

        def counted(plan: FlashInferPlan, *arguments: Any) -> None:
            self.count += 1
            plain(plan, *arguments)

        monkeypatch.setattr(FlashInferPlan, "attend", counted)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    return Served(monkeypatch)


@pytest.fixture
def model_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model with heads that FlashInfer serves; one of its layers has a window."""
    fields = {
        "head_dim": HEAD_DIM,
        "max_position_embeddings": 4096,
        "use_sliding_window": True,
        "sliding_window": 48,
        "max_window_layers": 2,
    }
    monkeypatch.setitem(RECIPES, "wide", Recipe(model_type="qwen3", fields=fields))
    return write_checkpoint("wide", tmp_path / "model", torch.bfloat16)


def run(engine: Any, lengths: tuple[int, ...]) -> EngineDriver:
    """Greedy tokens after prompts of these lengths; requests count from 1."""
    driver = EngineDriver(engine)
    driver.admit(
        *(
            admission(1 + index, random_tokens(length, length), max_tokens=NUM_TOKENS, top_logprobs=NUM_TOP)
            for index, length in enumerate(lengths)
        )
    )
    return driver.run()


def assert_as_good_as_transformers(driver: EngineDriver, lengths: tuple[int, ...], model_dir: Path) -> None:
    """Log probabilities and greedy tokens are those of float32 up to an error like that of transformers in bfloat16."""
    exact, peer = Reference(model_dir, torch.float32), Reference(model_dir, torch.bfloat16)
    ours, theirs, short = [], [], []
    for index, length in enumerate(lengths):
        prompt, tokens = random_tokens(length, length), driver.tokens[1 + index]
        entries = driver.logprobs[1 + index]
        wanted, other = exact.logprobs(prompt, tokens), peer.logprobs(prompt, tokens)
        top = torch.tensor([entry.top_ids for entry in entries])
        found = torch.tensor([entry.top_logprobs for entry in entries], dtype=torch.float64)
        ours.append((found - wanted.gather(1, top)).flatten())
        theirs.append((other - wanted).gather(1, top).flatten())
        short.append(wanted.amax(-1) - wanted.gather(1, torch.tensor(tokens)[:, None])[:, 0])
    largest = float(torch.cat(theirs).abs().max())
    assert rms(torch.cat(ours)) <= WORSE * rms(torch.cat(theirs))
    assert torch.cat(ours).abs().max() <= 2 * largest
    # What is likeliest for us is so for transformers, but for the errors of two log probabilities.
    assert torch.cat(short).max() <= 4 * largest


@pytest.mark.parametrize("has_graphs", [False, True], ids=["launched", "graphs"])
@pytest.mark.parametrize("token_budget", [61, 1024])
def test_greedy_tokens_and_logprobs_are_those_of_transformers(
    token_budget: int, has_graphs: bool, model_dir: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "_MIXED_SIZES", (16,))  # all larger steps have no graph of their own
    monkeypatch.setattr(large_steps, "WORTHWHILE", math.inf if has_graphs else 0.0)
    fields: dict[str, Any] = {"dtype": "bfloat16", "max_rows": len(LENGTHS), "token_budget": token_budget}
    driver = run(make_gpu_engine(model_dir, attention_prefill="flashinfer", **fields), LENGTHS)
    assert served.count > 0 and served.count % 2 == 0  # two of the three layers have no window
    assert_as_good_as_transformers(driver, LENGTHS, model_dir)


@pytest.mark.parametrize(("name", "expected"), [("flashinfer", 2), ("triton", 0)])
def test_steps_above_the_largest_graph_alone_are_served(
    name: str, expected: int, model_dir: Path, served: Served
) -> None:
    lengths = (3000, 40)
    fields: dict[str, Any] = {"dtype": "bfloat16", "max_rows": 4, "token_budget": 4096}
    driver = run(make_gpu_engine(model_dir, attention_prefill=name, **fields), lengths)
    assert served.count == expected  # one step, two layers without a window
    assert_as_good_as_transformers(driver, lengths, model_dir)
