"""Packed batches: whole chats side by side in rows of the context length, generated as they are needed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bough.demo.corpus.mix import conversation, plain_text
from bough.demo.corpus.render import Piece, chat_pieces

__all__ = ["Batch", "BatchMaker", "batches", "document", "tokenizer_texts"]

_PLAIN_SHARE = 0.04
_OPEN_ROWS = 4
_CHUNK = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One step's packed rows."""

    tokens: Tensor  # int64 [rows, length]
    weights: Tensor  # float32 [rows, length], of each token as a target
    documents: Tensor  # int32 [rows, length], which document of the row a token belongs to


def document(rng: random.Random) -> list[Piece]:
    """Return one training document: mostly a chat, at times plain text."""
    if rng.random() < _PLAIN_SHARE:
        return [(plain_text(rng) + "<|endoftext|>", 1.0)]
    return chat_pieces(conversation(rng))


def tokenizer_texts(seed: int, num_documents: int) -> Iterator[str]:
    """Yield the text of documents for training the tokenizer, without the chat markup's tokens."""
    rng = random.Random(seed)
    for _ in range(num_documents):
        for text, _weight in document(rng):
            yield from text.replace("|>", "<|").split("<|")


class BatchMaker(Dataset[tuple[npt.NDArray[np.int32], ...]]):
    """Makes batch number n from seed and n alone, so that any worker can make it and runs repeat."""

    def __init__(self, tokenizer_file: Path, *, seed: int, num_batches: int, num_rows: int, length: int) -> None:
        self._tokenizer_file = tokenizer_file
        self._tokenizer: Tokenizer | None = None
        self._seed = seed
        self._num_batches = num_batches
        self._num_rows = num_rows
        self._length = length

    def __len__(self) -> int:
        return self._num_batches

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.int32], ...]:
        """Return tokens, weights in thousandths and document numbers, each int32 [rows, length]."""
        if self._tokenizer is None:
            self._tokenizer = Tokenizer.from_file(str(self._tokenizer_file))
        shape = (self._num_rows, self._length)
        tokens = np.full(shape, self._tokenizer.token_to_id("<|endoftext|>"), np.int32)
        weights, documents = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        used, counts = [0] * self._num_rows, [0] * self._num_rows
        first_open = 0
        for ids, scaled in self._encoded(random.Random(f"{self._seed}:{index}")):
            open_rows = range(first_open, min(first_open + _OPEN_ROWS, self._num_rows))
            row = next((row for row in open_rows if used[row] + len(ids) <= self._length), None)
            if row is None:
                first_open += 1
                if first_open == self._num_rows:
                    break
                continue
            start, end = used[row], used[row] + len(ids)
            counts[row] += 1
            tokens[row, start:end], weights[row, start:end], documents[row, start:end] = ids, scaled, counts[row]
            weights[row, start] = 0  # nothing before it predicts a document's first token
            used[row] = end
        return tokens, weights, documents

    def _encoded(self, rng: random.Random) -> Iterator[tuple[list[int], list[int]]]:
        """Yield documents as ids and weights in thousandths, for ever."""
        assert self._tokenizer is not None
        while True:
            chunk = [document(rng) for _ in range(_CHUNK)]
            texts = [text for pieces in chunk for text, _ in pieces]
            encodings = iter(self._tokenizer.encode_batch(texts, add_special_tokens=False))
            for pieces in chunk:
                ids: list[int] = []
                scaled: list[int] = []
                for _, weight in pieces:
                    piece_ids = next(encodings).ids
                    ids += piece_ids
                    scaled += [round(weight * 1000)] * len(piece_ids)
                yield ids, scaled


def _as_is(item: Any) -> Sequence[Tensor]:
    return [torch.from_numpy(array) for array in item]


def batches(maker: BatchMaker, num_workers: int, device: torch.device) -> Iterator[Batch]:
    """Yield the maker's batches in order on the device, made ahead by worker processes."""
    loader = DataLoader(
        maker,
        batch_size=None,
        shuffle=False,
        num_workers=num_workers,
        prefetch_factor=4 if num_workers else None,
        collate_fn=_as_is,
        pin_memory=device.type == "cuda",
    )
    for tokens, weights, documents in loader:
        yield Batch(
            tokens=tokens.to(device, torch.int64, non_blocking=True),
            weights=weights.to(device, torch.float32, non_blocking=True) / 1000,
            documents=documents.to(device, non_blocking=True),
        )
