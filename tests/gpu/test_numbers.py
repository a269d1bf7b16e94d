"""In bfloat16 the model on a GPU is as close to the model in float32 as transformers is in bfloat16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.helpers.checkpoints import TINY, write_checkpoint
from tests.helpers.engines import EngineDriver, admission, make_gpu_engine, random_tokens

pytestmark = pytest.mark.gpu

LENGTHS = (1, 2, 15, 16, 17, 33, 64, 130, 311, 503, 700)
NUM_TOKENS = 12
NUM_TOP = 20
WORSE = 1.5
"""Our error over that of transformers, at most."""


class Reference:
    """Log probabilities by transformers, of whole sequences at once."""

    def __init__(self, model_dir: Path, dtype: torch.dtype) -> None:
        model: Any = AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype)
        self._model = model.to("cuda")

    @torch.inference_mode()
    def logprobs(self, prompt: list[int], tokens: list[int]) -> Tensor:
        """[len(tokens), V] float64 of what may stand in the place of each token."""
        ids = torch.tensor([prompt + tokens], device="cuda")
        logits = self._model(ids).logits[0, len(prompt) - 1 : -1]
        return torch.log_softmax(logits.double(), dim=-1).cpu()


def errors(driver: EngineDriver, exact: Reference, peer: Reference, first: int) -> tuple[Tensor, Tensor]:
    """Ours and the peer's, at the tokens that we find likeliest at each position of the requests from `first` on."""
    ours, theirs = [], []
    for index, length in enumerate(LENGTHS):
        request = first + index
        prompt, tokens = random_tokens(length, length), driver.tokens[request]
        assert len(driver.logprobs[request]) == NUM_TOKENS
        wanted, other = exact.logprobs(prompt, tokens), peer.logprobs(prompt, tokens)
        top = torch.tensor([entry.top_ids for entry in driver.logprobs[request]])
        found = torch.tensor([entry.top_logprobs for entry in driver.logprobs[request]], dtype=torch.float64)
        ours.append((found - wanted.gather(1, top)).flatten())
        theirs.append((other.gather(1, top) - wanted.gather(1, top)).flatten())
    return torch.cat(ours), torch.cat(theirs)


def rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


@pytest.mark.parametrize("name", TINY)
def test_errors_in_bfloat16_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    model_dir = write_checkpoint(name, tmp_path / "model", torch.bfloat16)
    exact, peer = Reference(model_dir, torch.float32), Reference(model_dir, torch.bfloat16)
    for token_budget in (61, 1024):  # prompts in chunks that end anywhere; all of them in two steps
        engine = make_gpu_engine(model_dir, dtype="bfloat16", max_rows=len(LENGTHS), token_budget=token_budget)
        for first, is_cached in (1, False), (101, True):
            driver = EngineDriver(engine)
            driver.admit(
                *(
                    admission(first + index, random_tokens(length, length), max_tokens=NUM_TOKENS, top_logprobs=NUM_TOP)
                    for index, length in enumerate(LENGTHS)
                )
            )
            driver.run()
            assert list(driver.cached.values()) == [length - 1 if is_cached else 0 for length in LENGTHS]
            ours, theirs = errors(driver, exact, peer, first)
            which = f"{name}, token_budget {token_budget}, cached {is_cached}"
            print(f"{which}: rms {rms(ours):.5f}, transformers {rms(theirs):.5f}")  # noqa: T201
            assert rms(ours) <= WORSE * rms(theirs), which
            assert ours.abs().max() <= 2 * theirs.abs().max(), which
