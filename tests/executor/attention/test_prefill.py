"""What is planned on the host about a step's chunks, and when FlashInfer is chosen to plan it."""

from __future__ import annotations

import importlib.machinery
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bough.common.config import Settings
from bough.common.model import read_model_files
from bough.common.telemetry import Telemetry
from bough.executor.attention import flashinfer_backend
from bough.executor.attention.flashinfer_backend import FlashInferPrefill, HeadShape, choose_prefill
from bough.executor.attention.prefill import chunk_pages
from bough.executor.models.config import ModelConfig, ModelError
from bough.executor.observer import Observer
from bough.executor.runner import ModelRunner, RunnerConfig
from bough.executor.service import build_engine
from bough.executor.step import StepArrays
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.tokenizer_files import byte_level

PAGE_SIZE = 16
CUDA = torch.device("cuda")


def arrays_of(decodes: list[int], chunks: list[tuple[int, int]]) -> StepArrays:
    """The arrays of decodes with these contexts, and of chunks (query tokens, context)."""
    lengths = [1] * len(decodes) + [length for length, _ in chunks]
    context_lens = np.array(decodes + [context for _, context in chunks], np.int32)
    num_pages = -(-context_lens // PAGE_SIZE)
    # Entries behind a row's pages are 0 or pages that it does not fill yet.
    page_table = np.arange(len(lengths) * (num_pages.max() + 1), dtype=np.int32).reshape(len(lengths), -1) * 7 % 1000
    num_tokens = sum(lengths)
    zeros = np.zeros(num_tokens, np.int64)
    return StepArrays(
        tokens=zeros,
        positions=zeros,
        slots=zeros,
        query_start=np.array([0, *np.cumsum(lengths)], np.int32),
        context_lens=context_lens,
        page_table=page_table,
        logit_rows=zeros,
        rows=np.arange(len(lengths)),
        num_decode_rows=len(decodes),
    )


CHUNKS = st.tuples(st.integers(1, 100), st.integers(0, 100)).map(lambda pair: (pair[0], sum(pair)))


@given(st.lists(st.integers(1, 60), max_size=5), st.lists(CHUNKS, min_size=1, max_size=5))
def test_chunks_have_their_own_tokens_and_the_pages_of_their_whole_context(
    decodes: list[int], chunks: list[tuple[int, int]]
) -> None:
    arrays = arrays_of(decodes, chunks)
    found = chunk_pages(arrays, PAGE_SIZE)
    assert found.first_token == len(decodes)
    assert found.num_tokens == sum(length for length, _ in chunks)
    for index, (length, context) in enumerate(chunks):
        assert found.query_start[index + 1] - found.query_start[index] == length
        pages = found.pages[found.page_start[index] : found.page_start[index + 1]]
        expected = [arrays.page_table[len(decodes) + index, at // PAGE_SIZE] for at in range(0, context, PAGE_SIZE)]
        assert pages.tolist() == expected
        assert found.last_page_len[index] == context - PAGE_SIZE * (len(pages) - 1)
        assert found.context_lens[index] == context
    assert found.query_start[0] == found.page_start[0] == 0
    for part in (found.query_start, found.page_start, found.pages, found.last_page_len, found.context_lens):
        assert part.dtype == np.int32


class Installed:
    """A FlashInfer that is found but not imported, on a GPU of capability 9.0, and what became of planners."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[HeadShape] = []
        self.error: Exception | None = None
        installed = self

        class Planner:
            kernels = "fa3"

            def __init__(self, shape: HeadShape, device: torch.device) -> None:
                installed.made.append(shape)
                if installed.error is not None:
                    raise installed.error

        spec = importlib.machinery.ModuleSpec("flashinfer", None)
        monkeypatch.setattr(flashinfer_backend, "find_spec", {"flashinfer": spec}.get)
        monkeypatch.setattr(flashinfer_backend, "FlashInferPrefill", Planner)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Installed:
    return Installed(monkeypatch)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    read = ModelConfig.read(write_checkpoint("qwen3", tmp_path_factory.mktemp("model")))
    return replace(read, head_dim=128)


def choose(wanted: Any, config: ModelConfig, dtype: torch.dtype = torch.bfloat16) -> FlashInferPrefill | None:
    return choose_prefill(wanted, config, dtype, CUDA)


def measured_faster(monkeypatch: pytest.MonkeyPatch, *shapes: tuple[int, int]) -> None:
    monkeypatch.setattr(flashinfer_backend, "_FASTER_THAN_OURS", frozenset(shapes))


def test_without_the_package_auto_is_our_kernel_and_the_name_is_refused_with_what_to_install(
    config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured_faster(monkeypatch, (9, 128))
    monkeypatch.setattr(flashinfer_backend, "find_spec", {}.get)
    assert choose("auto", config) is None
    with pytest.raises(ModelError, match=r"not installed \(pip install 'bough\[flashinfer\]'\); 'auto' and 'triton'"):
        choose("flashinfer", config)


def test_by_name_it_is_taken_without_having_been_measured(
    config: ModelConfig, installed: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured_faster(monkeypatch)
    assert choose("flashinfer", config) is not None
    assert installed.made == [HeadShape(num_heads=4, num_kv_heads=2, head_dim=128, dtype=torch.bfloat16)]


def test_auto_takes_it_only_where_it_has_been_measured_to_be_faster(
    config: ModelConfig, installed: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured_faster(monkeypatch, (9, 64), (8, 128))
    assert choose("auto", config) is None
    assert installed.made == []
    measured_faster(monkeypatch, (9, 128))
    assert choose("auto", config) is not None


def test_our_kernel_can_be_asked_for(
    config: ModelConfig, installed: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured_faster(monkeypatch, (9, 128))
    assert choose("triton", config) is None
    assert installed.made == []


@pytest.mark.parametrize(
    ("fields", "dtype", "message"),
    [
        ({}, torch.float32, "FlashInfer takes no float32"),
        ({"head_dim": 80}, torch.bfloat16, "FlashInfer takes no head_dim of 80"),
        ({"windows": (64, 64, 64)}, torch.bfloat16, "FlashInfer is not used for layers with a window"),
    ],
)
def test_what_it_does_not_serve_stays_with_our_kernel_and_is_logged_once(
    fields: dict[str, Any],
    dtype: torch.dtype,
    message: str,
    config: ModelConfig,
    installed: Installed,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = replace(config, **fields)
    with caplog.at_level(logging.INFO):
        assert choose("auto", other, dtype) is None
        assert caplog.messages == []
        assert choose("flashinfer", other, dtype) is None
    assert len(caplog.messages) == 1 and message in caplog.messages[0]
    assert installed.made == []


def test_layers_with_a_window_beside_others_are_named_in_the_log(
    config: ModelConfig, installed: Installed, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert choose("flashinfer", replace(config, windows=(None, 64, 64))) is not None
    assert [message for message in caplog.messages if "2 layers with a window by Triton" in message]


def test_where_it_cannot_be_compiled_auto_goes_on_and_the_name_is_refused(
    config: ModelConfig, installed: Installed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    measured_faster(monkeypatch, (9, 128))
    installed.error = RuntimeError("Ninja build failed.\nand much more")
    assert choose("auto", config) is None
    assert caplog.messages == ["prefill attention by Triton: FlashInfer cannot be used: Ninja build failed."]
    with pytest.raises(ModelError, match=r"FlashInfer cannot be used: Ninja build failed\.$"):
        choose("flashinfer", config)


def test_only_known_names_are_accepted_as_a_setting() -> None:
    for name in ("auto", "triton", "flashinfer"):
        assert Settings(attention_prefill=name).attention_prefill == name
    with pytest.raises(ValidationError, match="attention_prefill"):
        Settings(attention_prefill="fa3")


def test_the_setting_reaches_whoever_loads_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Loaded(Exception):
        """Instead of a model."""

    def load(config: RunnerConfig, **_: Any) -> ModelRunner:
        assert config.attention_prefill == "triton"
        raise Loaded

    monkeypatch.setattr(ModelRunner, "load", load)
    model_dir = write_checkpoint("qwen3", tmp_path)
    byte_level().save(str(model_dir / "tokenizer.json"))
    settings = Settings(model=model_dir, device="cpu", attention_prefill="triton")
    with pytest.raises(Loaded):
        build_engine(settings, read_model_files(model_dir), Observer(Telemetry("executor")))
