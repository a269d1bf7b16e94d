"""What goes wrong on a GPU ends the requests it belongs to, with a reason, and none beside them.

A GPU that has failed ends the executor instead, and no request.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from safetensors.torch import load_file, save_file
from torch import Tensor

from bough.common.sampling import FinishReason
from bough.executor.engine import INTERNAL
from bough.executor.gpu.batch import GpuBatch
from bough.executor.gpu.runner import GpuRunner
from bough.executor.models.config import ModelError
from bough.executor.orders import Admission
from bough.executor.pipeline.base import DeviceFailedError
from bough.executor.runner import RunnerConfig
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.engine_fuzz import check_nothing_is_lost
from tests.helpers.engines import EngineDriver, admission, load_runner, make_engine, make_gpu_engine, random_tokens
from tests.helpers.repository import ROOT

pytestmark = pytest.mark.gpu

BAD = 511
"""Token whose embedding is not a number; no other prompt has it, and none may produce it."""
SAMPLINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.9},
    {"temperature": 0.9, "top_k": 30, "top_p": 0.9},
    {"temperature": 0.8, "min_p": 0.02, "repetition_penalty": 1.2},
    {"top_logprobs": 3},
]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not tied: what is wrong with the embedding must not be in the head too."""
    return write_checkpoint("llama2", tmp_path_factory.mktemp("model"))


def request(number: int, length: int, *, bad_at: int | None = None) -> Admission:
    prompt = random_tokens(length, number, BAD)
    if bad_at is not None:
        prompt[bad_at] = BAD
    sampling = SAMPLINGS[number % len(SAMPLINGS)]
    return admission(number, prompt, seed=number, max_tokens=40, logit_bias=((BAD, -100.0),), **sampling)


def on_cpu(model_dir: Path, *admissions: Admission) -> dict[int, list[int]]:
    driver = EngineDriver(make_engine(load_runner(model_dir)))
    driver.admit(*admissions)
    return driver.run().tokens


def test_a_weight_that_is_not_a_number_ends_only_the_requests_whose_tokens_it_belongs_to(
    model_dir: Path, tmp_path: Path
) -> None:
    poisoned = write_checkpoint("llama2", tmp_path / "poisoned")
    weights = load_file(poisoned / "model.safetensors")
    weights["model.embed_tokens.weight"][BAD] = torch.nan
    save_file(weights, poisoned / "model.safetensors", metadata={"format": "pt"})
    good = [request(i, 10 + 7 * i) for i in range(1, 13)]
    bad = [request(20 + i, 30 + 5 * i, bad_at=at) for i, at in enumerate((0, 3, 15, 16, 29, -1))]
    later = [request(40 + i, 5 + 9 * i) for i in range(12)]
    expected = on_cpu(model_dir, *good, *later)
    driver = EngineDriver(make_gpu_engine(poisoned, num_pages=100, token_budget=64))
    driver.admit(*good[:6], *bad, *good[6:])
    driver.run()
    assert driver.failures.keys() == {entry.request for entry in bad}
    for entry in bad:
        failure = driver.failures[entry.request]
        assert failure.code == INTERNAL and "not finite" in failure.message
        assert not driver.tokens[entry.request] and driver.finish[entry.request] is FinishReason.ERROR
    # These get the pages in which the others left what is not a number.
    driver.admit(*later)
    driver.run()
    assert {number: driver.tokens[number] for number in expected} == expected
    check_nothing_is_lost(driver.engine)


def test_a_row_that_cannot_be_set_up_ends_alone_and_writes_to_no_page_of_others(model_dir: Path) -> None:
    cached, beside, after = request(1, 64), request(2, 90), request(5, 64)
    prompts = [list(entry.prompt) for entry in (cached, after)]
    expected = on_cpu(model_dir, cached, beside, after)
    driver = EngineDriver(make_gpu_engine(model_dir))
    driver.admit(cached, after)
    driver.run()
    assert [driver.tokens[number] for number in (1, 5)] == [expected[1], expected[5]]
    # Their prompts are in the cache, so that they begin as decodes, in rows that others had before.
    driver.admit(
        beside,
        *(admission(10 + i, prompt, logit_bias=((600, 1.0),), max_tokens=40) for i, prompt in enumerate(prompts)),
        admission(12, prompts[0], stop_token_ids=tuple(range(3, 1203)), max_tokens=40),
    )
    driver.run()
    assert driver.failures.keys() == {10, 11, 12}
    assert "token id 600" in driver.failures[10].message and "up to 1024 are accepted" in driver.failures[12].message
    assert driver.tokens[2] == expected[2]
    again = EngineDriver(driver.engine)
    again.admit(cached, after)
    again.run()
    assert again.cached == {1: 63, 5: 63}
    assert [again.tokens[number] for number in (1, 5)] == [expected[1], expected[5]]
    check_nothing_is_lost(driver.engine)


def test_a_chunk_that_runs_out_of_memory_ends_its_prefills_and_no_decode(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    decodes = [request(i, 20 + i) for i in range(1, 5)]
    late = request(9, 450)
    expected = on_cpu(model_dir, *decodes, late)
    # Graphs hold up to 384 tokens of a budget of 500, so that a chunk of 450 is launched kernel by kernel.
    driver = EngineDriver(make_gpu_engine(model_dir, token_budget=500))
    driver.admit(*decodes)
    for _ in range(6):
        driver.step()
    hidden = GpuRunner.hidden
    failed: list[int] = []

    def fails_once(self: GpuRunner, batch: GpuBatch, out: Tensor, **options: bool) -> None:
        if batch.chunks is not None and not failed:
            failed.append(batch.num_tokens)
            raise torch.OutOfMemoryError("planted")
        hidden(self, batch, out, **options)

    monkeypatch.setattr(GpuRunner, "hidden", fails_once)
    driver.admit(late)
    driver.run()
    assert failed == [454]
    assert driver.failures.keys() == {9} and driver.failures[9].code == INTERNAL
    assert "planted" in driver.failures[9].message and "a step failed" in caplog.text
    again = EngineDriver(driver.engine)
    again.admit(late)
    again.run()
    assert again.tokens[9] == expected[9]
    assert {entry.request: driver.tokens[entry.request] for entry in decodes} == {i: expected[i] for i in range(1, 5)}
    check_nothing_is_lost(driver.engine)


@triton.jit
def _store_at(pointer, offset):  # type: ignore[no-untyped-def]  # a kernel's parameters have none
    tl.store(pointer + offset, 1)


def wild_store() -> None:
    """A kernel that writes to an address which is nobody's."""
    _store_at[(1,)](torch.zeros(1, dtype=torch.int32, device="cuda"), 1 << 44)


def failed_assertion() -> None:
    """A kernel that stops because an index is out of range."""
    torch.zeros(8, device="cuda")[torch.tensor([1 << 20], device="cuda")]


FAULTS: dict[str, Callable[[], None]] = {"wild store": wild_store, "failed assertion": failed_assertion}


def run_into(fault: str, seen_before_launch: bool, model_dir: Path) -> None:
    """Break the GPU under running requests, print what became of them, and end the process.

    Args:
        fault: of `FAULTS`.
        seen_before_launch: wait for the fault, so that a launch is the first to run into it.
        model_dir: of the model.
    """
    driver = EngineDriver(make_gpu_engine(model_dir))
    driver.admit(*(admission(i, random_tokens(20 + i, i), max_tokens=900) for i in range(1, 7)))
    for _ in range(6):
        driver.step()
    try:
        FAULTS[fault]()
        if seen_before_launch:
            torch.cuda.synchronize()
    except RuntimeError as error:
        sys.stderr.write(f"planted: {error}\n")
    outcome: dict[str, Any] = {"error": None}
    try:
        driver.admit(admission(9, random_tokens(100, 9), max_tokens=900))
        driver.run()
    except DeviceFailedError as error:
        outcome = {"error": str(error), "cause": type(error.__cause__).__name__}
    outcome |= {"failures": list(driver.failures), "ended": list(driver.finish), "began": list(driver.tokens)}
    sys.stdout.write(json.dumps(outcome) + "\n")
    sys.stdout.flush()
    os._exit(0)  # nothing can be freed on a GPU that has failed


@pytest.mark.parametrize("seen_before_launch", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_gpu_that_fails_ends_the_engine_and_no_request(model_dir: Path, fault: str, seen_before_launch: bool) -> None:
    call = f"run_into({fault!r}, {seen_before_launch}, Path({str(model_dir)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", f"from pathlib import Path; from tests.gpu.test_failures import run_into; {call}"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["error"] is not None, done.stderr
    assert outcome["error"].startswith("the GPU has failed: ") and outcome["error"].endswith("; the executor ends")
    assert outcome["cause"] != "NoneType"
    assert not outcome["failures"] and not outcome["ended"] and outcome["began"]


def changed(model_dir: Path, copy: Path, **fields: Any) -> Path:
    """A directory with nothing but the configuration, some fields changed."""
    config = json.loads((model_dir / "config.json").read_text())
    copy.mkdir()
    (copy / "config.json").write_text(json.dumps({**config, **fields}))
    return copy


def load(model_dir: Path, **fields: Any) -> GpuRunner:
    config = RunnerConfig(model_dir=model_dir, dtype="bfloat16", load_format="dummy", token_budget=512, **fields)
    return GpuRunner.load(config, torch.device("cuda", 0))


def test_weights_that_do_not_fit_are_refused_with_the_size_of_the_gpu(model_dir: Path, tmp_path: Path) -> None:
    huge = changed(model_dir, tmp_path / "huge", intermediate_size=1 << 32)  # 1.6 TB for each layer
    with pytest.raises(ModelError, match=r"its weights do not fit into the \d+ GB of the GPU; lower"):
        load(huge)


def test_pages_that_do_not_fit_are_refused_with_what_to_lower(model_dir: Path) -> None:
    with pytest.raises(ModelError, match=r"kv_pages = 1000000000: they need 12288.0 GB.*; lower kv_pages"):
        load(model_dir, num_pages=1_000_000_000)


def test_a_context_that_leaves_no_room_for_one_sequence_is_refused_with_both_numbers(
    model_dir: Path, tmp_path: Path
) -> None:
    # 197 kB of keys and values for each token.
    fields = {"num_attention_heads": 64, "num_key_value_heads": 64, "head_dim": 256}
    wide = changed(model_dir, tmp_path / "wide", max_position_embeddings=2_000_000, **fields)
    says = r"memory for \d+ KV pages is left on the GPU, one sequence of max_context = 2000000 tokens needs 125000"
    with pytest.raises(ModelError, match=says):
        load(wide)
    assert load(wide, max_context=2_000, max_rows=4).num_pages == 4 * 125
