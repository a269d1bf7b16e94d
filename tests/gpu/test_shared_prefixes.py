"""Decodes that share a prefix give the tokens that they give alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from bough.executor.gpu.steps import GpuSteps
from bough.executor.models.config import ModelConfig
from tests.helpers.checkpoints import TINY, write_checkpoint
from tests.helpers.engines import admission, generate, load_runner, make_engine, make_gpu_engine, random_tokens

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("short_prefixes_are_shared")]

SYSTEM = random_tokens(100, 1)
FEW_SHOT = SYSTEM + random_tokens(70, 2)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[bool]]:
    """By the kind of a step, whether each made use of shared prefixes."""
    seen: dict[str, list[bool]] = {}
    for name in ("decode", "forward_mixed"):
        original = getattr(GpuSteps, name)

        def noted(self: GpuSteps, *args: object, _name: str = name, _original: object = original, **kw: object) -> None:
            seen.setdefault(_name, []).append(bool(kw.get("shared")))
            _original(self, *args, **kw)  # type: ignore[operator]

        monkeypatch.setattr(GpuSteps, name, noted)
    return seen


# all kinds of attention, with a window in some layers too
@pytest.mark.parametrize("name", TINY)
def test_requests_that_share_prefixes_have_the_tokens_of_the_cpu(
    name: str, tmp_path: Path, calls: dict[str, list[bool]]
) -> None:
    model_dir = write_checkpoint(name, tmp_path / "model")
    prompts = [SYSTEM + random_tokens(10 + i, i) for i in range(5)] + [
        FEW_SHOT + random_tokens(3 * i, i) for i in range(1, 6)
    ]
    prompts += [random_tokens(40, 50 + i) for i in range(3)]
    requests = [admission(i + 1, prompt, max_tokens=40 + i) for i, prompt in enumerate(prompts)]
    expected = generate(make_engine(load_runner(model_dir)), *requests)
    # prompts take several steps each, which most of the decodes share
    engine = make_gpu_engine(model_dir, max_rows=len(prompts), token_budget=45)
    calls.clear()
    assert generate(engine, *requests) == expected
    # where all layers have a window, none would make use of them
    shares = any(window is None for window in ModelConfig.read(model_dir).windows)
    assert [any(calls["decode"]), any(calls["forward_mixed"])] == [shares, shares]


def test_requests_that_share_nothing_decode_as_before(tmp_path: Path, calls: dict[str, list[bool]]) -> None:
    model_dir = write_checkpoint("qwen3", tmp_path / "model")
    engine = make_gpu_engine(model_dir)
    calls.clear()
    generate(engine, *(admission(i + 1, random_tokens(40, i), max_tokens=10) for i in range(8)))
    assert not any(calls["decode"])
