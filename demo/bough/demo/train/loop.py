"""The training loop: Muon for the matrices, AdamW for the rest, bf16 autocast, warm-up, plateau and decay to zero."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from bough.demo.train.data import Batch
from bough.demo.train.model import DemoModel

__all__ = ["TrainConfig", "learning_rate_factor", "train"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How long and how fast to train; the defaults made the shipped checkpoint."""

    num_steps: int = 4700
    num_rows: int = 64
    seed: int = 1
    matrix_learning_rate: float = 4e-3
    other_learning_rate: float = 4e-3
    weight_decay: float = 0.05
    warmup_share: float = 0.03
    decay_share: float = 0.5
    log_every: int = 50
    save_every: int = 500


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Return the factor of the learning rates at a step: up, level, then linearly down to zero."""
    warmup = max(1, int(config.num_steps * config.warmup_share))
    decay_start = int(config.num_steps * (1 - config.decay_share))
    if step < warmup:
        return (step + 1) / warmup
    if step < decay_start:
        return 1.0
    return (config.num_steps - step) / (config.num_steps - decay_start)


class _Masks:
    """Attention masks of packed rows; on CUDA over one buffer, so that the compiled graph is built once."""

    def __init__(self, num_rows: int, length: int, device: torch.device) -> None:
        self._documents = torch.zeros(num_rows, length, dtype=torch.int32, device=device)
        self._is_cuda = device.type == "cuda"

        def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (query >= key) & (self._documents[row, query] == self._documents[row, key])

        self._visible = visible

    def of(self, batch: Batch) -> Tensor | BlockMask:
        """Return the mask of a batch: causal, and each document sees only itself."""
        self._documents.copy_(batch.documents)
        num_rows, length = batch.documents.shape
        if self._is_cuda:
            return create_block_mask(self._visible, num_rows, None, length, length, device="cuda")
        same = batch.documents[:, None, :, None] == batch.documents[:, None, None, :]
        return same & torch.ones(length, length, dtype=torch.bool).tril()


def _optimizers(model: DemoModel, config: TrainConfig) -> list[torch.optim.Optimizer]:
    named = list(model.named_parameters())
    matrices = [value for name, value in named if value.dim() == 2 and "embed_tokens" not in name]
    embeddings = [value for name, value in named if "embed_tokens" in name]
    scales = [value for _, value in named if value.dim() == 1]
    muon = torch.optim.Muon(
        matrices,
        lr=config.matrix_learning_rate,
        weight_decay=config.weight_decay,
        momentum=0.95,
        adjust_lr_fn="match_rms_adamw",
    )
    groups = [{"params": embeddings, "weight_decay": config.weight_decay}, {"params": scales, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=config.other_learning_rate, betas=(0.9, 0.95), eps=1e-10)
    return [muon, adam]


def train(
    model: DemoModel,
    data: Iterable[Batch],
    config: TrainConfig,
    *,
    save: Callable[[int], None],
    log: Callable[[str], None],
) -> None:
    """Train the model in place over the batches.

    Args:
        model: On its device, with float32 parameters.
        data: At least `config.num_steps` batches on the same device.
        config: Length and rates.
        save: Called with the step number every `config.save_every` steps.
        log: Called with a line of progress every `config.log_every` steps.

    Raises:
        FloatingPointError: If the loss is no longer finite.
    """
    device = next(model.parameters()).device
    masks = _Masks(config.num_rows, model.config.context_length, device)
    optimizers = _optimizers(model, config)
    base_rates = [[float(group["lr"]) for group in optimizer.param_groups] for optimizer in optimizers]
    forward = torch.compile(model, dynamic=False) if device.type == "cuda" else model
    started, total = time.monotonic(), torch.zeros((), device=device)
    for step, batch in zip(range(config.num_steps), data, strict=False):
        factor = learning_rate_factor(step, config)
        for optimizer, rates in zip(optimizers, base_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = forward(batch.tokens, batch.weights, masks.of(batch))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        total += loss.detach()
        if (step + 1) % config.log_every == 0:
            mean = float(total) / config.log_every
            if not math.isfinite(mean):
                raise FloatingPointError(f"the loss is {mean} at step {step + 1}")
            seconds = time.monotonic() - started
            rate = (step + 1) * batch.tokens.numel() / seconds
            log(f"step {step + 1}/{config.num_steps} loss {mean:.4f} {rate / 1e6:.2f}M tokens/s {seconds:.0f} s")
            total.zero_()
        if (step + 1) % config.save_every == 0:
            save(step + 1)
