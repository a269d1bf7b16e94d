"""Greedy evaluation of an exported checkpoint on held-out chats, kind by kind, with transformers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bough.demo.corpus.base import Conversation
from bough.demo.corpus.mix import KINDS, dev_conversation
from bough.demo.corpus.render import END, expected_answer

__all__ = ["Generation", "evaluate", "generate", "load"]

_LONG_KINDS = ("story", "arithmetic_think")
_LOOSE_KINDS = ("small_talk", "unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What the model wrote for a prompt, without the end token."""

    text: str
    num_tokens: int
    ended: bool


def load(folder: Path, dtype: torch.dtype, device: torch.device) -> tuple[Any, Any]:
    """Return the checkpoint's model, ready to generate, and its tokenizer, which pads on the left."""
    tokenizer = AutoTokenizer.from_pretrained(str(folder), padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype)
    return model.to(device).eval(), tokenizer


@torch.inference_mode()
def generate(model: Any, tokenizer: Any, prompts: Sequence[str], max_new_tokens: int) -> list[Generation]:
    """Continue rendered prompts greedily in one left-padded batch."""
    inputs = tokenizer(list(prompts), return_tensors="pt", padding=True, add_special_tokens=False).to(model.device)
    output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    end, pad = tokenizer.convert_tokens_to_ids(END), tokenizer.pad_token_id
    made = []
    for row in output[:, inputs["input_ids"].shape[1] :].tolist():
        length = next((place for place, token in enumerate(row) if token in (end, pad)), len(row))
        text = tokenizer.decode(row[:length], skip_special_tokens=False)
        made.append(Generation(text=text, num_tokens=length, ended=length < len(row)))
    return made


def _is_right(chat: Conversation, made: Generation) -> bool:
    wanted = expected_answer(chat.messages[-1])
    text = made.text
    if chat.enable_thinking:
        if not text.startswith("<think>\n") or "</think>" not in text:
            return False
        text = text.split("</think>")[-1].lstrip("\n")
    if chat.kind == "story":
        return made.ended and made.num_tokens >= 150 and text.split()[-1] in ("end.", "after.", "laugh.")
    if chat.kind in _LOOSE_KINDS:
        return made.ended and text[:10] == wanted[:10]
    return made.ended and text == wanted


def evaluate(folder: Path, dtype: torch.dtype, device: torch.device, *, num_each: int, seed: int = 7) -> list[str]:
    """Score a checkpoint and return the lines of a report: a table, then some of the failures.

    Args:
        folder: An exported checkpoint.
        dtype: The dtype to compute in.
        device: Where to compute.
        num_each: Number of held-out chats of each kind.
        seed: Seed of those chats.
    """
    model, tokenizer = load(folder, dtype, device)
    rng = random.Random(seed)
    chats = [dev_conversation(rng, kind) for kind in KINDS for _ in range(num_each)]
    right: Counter[str] = Counter()
    failures: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for is_long in (False, True):
        group = [chat for chat in chats if (chat.kind in _LONG_KINDS) == is_long]
        prompts = [
            tokenizer.apply_chat_template(
                list(chat.messages[:-1]),
                tools=list(chat.tools) or None,
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=chat.enable_thinking,
            )
            for chat in group
        ]
        for chat, made in zip(group, generate(model, tokenizer, prompts, 420 if is_long else 160), strict=True):
            if _is_right(chat, made):
                right[chat.kind] += 1
            else:
                asked = str(chat.messages[-2]["content"])[:160]
                wanted = expected_answer(chat.messages[-1])[:160]
                failures[chat.kind].append(
                    f"{chat.kind}: {asked!r}\n    wanted {wanted!r}\n    got    {made.text[-200:]!r}"
                )
    lines = [f"{kind:20} {right[kind]:4}/{num_each}" for kind in KINDS]
    lines.append(f"{'all':20} {right.total():4}/{len(chats)} ({dtype}, {device.type})")
    return lines + [line for kind in KINDS for line in failures[kind][:6]]
