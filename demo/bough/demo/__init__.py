"""Bough's demo model: a small chat model trained from scratch by `bough.demo.train` and shipped with the package."""

from __future__ import annotations

from pathlib import Path

__all__ = ["MODEL_ID", "model_dir"]

MODEL_ID = "bough-demo"
"""The name under which the demo model is served when no other name is given."""


def model_dir() -> Path:
    """Return the folder of the shipped checkpoint: config, bf16 weights, tokenizer, chat template, model card."""
    return Path(__file__).resolve().parent / "model"
