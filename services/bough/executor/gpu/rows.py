"""The rows of running sequences on the device: pages, last token, sampling parameters, penalties."""

from __future__ import annotations

from collections.abc import Sequence as Items

import numpy as np
import torch

from bough.common.errors import InvalidRequestError
from bough.common.sampling import SamplingParams
from bough.executor.gpu.arena import Arena
from bough.executor.gpu.shared_lines import SharedLines
from bough.executor.gpu.transfer import to_device
from bough.executor.row_table import RowTable
from bough.executor.running import Running
from bough.executor.sampling.filters import GREEDY_BELOW
from bough.kernels.gpu.sampling import SamplingFlag, SamplingState, set_row_bias, set_row_counts
from bough.kernels.gpu.sampling_types import MAX_STOP_IDS

_FLOATS = ("temperature", "top_p", "min_p", "presence", "frequency", "repetition")
_INTS = ("flags", "top_k", "min_tokens", "first_stop", "num_prompt")


class DeviceRows:
    """Owner of the state of all rows.

    Args:
        table: The rows that the composer fills; its page table is followed.
        vocab_size: Columns of the logits.
        eos_token_ids: The model's end-of-sequence ids.
        shared: Lines that share prefixes.
        device: Where the model is.
    """

    def __init__(
        self,
        table: RowTable,
        *,
        vocab_size: int,
        eos_token_ids: Items[int],
        shared: SharedLines,
        device: torch.device,
    ) -> None:
        self._table = table
        self._vocab_size = vocab_size
        self._eos_token_ids = tuple(eos_token_ids)
        self._device = device
        rows = table.max_rows
        flat = {name: (rows,) for name in (*_FLOATS, *_INTS, "token", "position", "line_rows")}
        self._arena = arena = Arena(
            {
                "page_table": (rows, table.max_pages),
                "seed": (rows * 2,),
                "stop_ids": (rows, MAX_STOP_IDS),
                "ending_ids": (rows, MAX_STOP_IDS),
                **flat,
                **shared.sections,
            },
            device,
        )
        self._shared = shared
        self.prefixes = shared.on_device(arena)
        """Of the lines of the next step, where `set_shared` said so."""
        self.page_table = arena.view("page_table")
        """[R, P] int32"""
        self.token = arena.view("token")
        """[R] int32: sampled last."""
        self.position = arena.view("position")
        """[R] int32: of that token."""
        self.line_rows = arena.view("line_rows")
        """[R] int32: row of each line of a decode step, -1 for none."""
        self.state = SamplingState(
            **{name: arena.view(name, torch.float32) for name in _FLOATS},
            **{name: arena.view(name) for name in (*_INTS, "stop_ids", "ending_ids", "token", "position")},
            seed=arena.view("seed", torch.int64),
            counts=torch.zeros((rows, vocab_size), dtype=torch.int32, device=device),
            bias=torch.zeros((rows, vocab_size), device=device),
        )
        self._decode_rows = np.zeros(0, np.int64)
        arena.put("line_rows", 0, np.full(rows, -1, np.int32))
        for name in ("stop_ids", "ending_ids"):
            arena.put(name, 0, np.full(rows * MAX_STOP_IDS, -1, np.int32))
        arena.put("temperature", 0, np.ones(rows, np.float32).view(np.int32))
        arena.send()

    def begin(self, running: Running) -> None:
        """Set up a row for a sequence that samples in it for the first time.

        Raises:
            InvalidRequestError: the parameters ask for more than a row can hold.
        """
        sequence = running.sequence
        row, num_prompt, params = sequence.row, sequence.num_prompt, sequence.params
        assert row is not None
        stop, ending = sorted(running.stop.stop_token_ids), {*self._eos_token_ids, *params.stop_token_ids}
        if len(ending) > MAX_STOP_IDS:
            raise InvalidRequestError(
                f"stop_token_ids: {len(ending)} ids that end the text; up to {MAX_STOP_IDS} are accepted",
                field="stop_token_ids",
            )
        flags = sampling_flags(params, has_matcher=running.matcher is not None)
        floats = {
            "temperature": max(params.temperature, GREEDY_BELOW),
            "top_p": params.top_p,
            "min_p": params.min_p,
            "presence": params.presence_penalty,
            "frequency": params.frequency_penalty,
            "repetition": params.repetition_penalty,
        }
        ints = {
            "flags": int(flags),
            "top_k": max(params.top_k, 0),
            "min_tokens": params.min_tokens,
            "first_stop": running.stop.first_stop,
            "num_prompt": num_prompt,
        }
        for name, number in floats.items():
            self._arena.update(name, row, np.array([number], np.float32).view(np.int32))
        for name, value in ints.items():
            self._arena.update(name, row, np.array([min(value, (1 << 31) - 1)], np.int32))
        self._arena.update("seed", row * 2, np.array([params.seed % (1 << 64)], np.uint64).view(np.int32))
        self._arena.update("stop_ids", row * MAX_STOP_IDS, _padded(stop))
        self._arena.update("ending_ids", row * MAX_STOP_IDS, _padded(sorted(ending) if params.min_tokens else []))
        if SamplingFlag.PENALIZED in flags:
            # Without repetition penalty the prompt does not count.
            start = 0 if params.repetition_penalty != 1.0 else num_prompt
            on_device = to_device(sequence.since(start), torch.int32, self._device)
            set_row_counts(self.state.counts, row, on_device, num_prompt - start)
        if SamplingFlag.BIASED in flags:
            self._set_bias(row, params)

    def start_decoding(self, row: int, token: int, position: int) -> None:
        """Give a row the token that it computes next, where the device does not have it.

        No step here has sampled it, or the row had drafts: which of its lines wrote last is not known.
        """
        self._arena.put("token", row, [token])
        self._arena.put("position", row, [position])

    def set_lines(self, decode_rows: np.ndarray) -> None:
        """The rows of the next decode step's lines; the same array as before means no change."""
        if decode_rows is self._decode_rows:
            return
        num_lines = max(len(decode_rows), len(self._decode_rows))
        lines = np.full(num_lines, -1, np.int32)
        lines[: len(decode_rows)] = decode_rows
        self._arena.update("line_rows", 0, lines)
        self._decode_rows = decode_rows

    def set_shared(self, decode_rows: np.ndarray) -> bool:
        """Find the prefixes that the next step's decodes share; returns whether attention should make use of them."""
        return self._shared.update(self._arena, decode_rows)

    def send(self) -> None:
        """Bring page table and rows on the device up to date."""
        changes = self._table.changes
        if changes:
            max_pages = self._table.max_pages
            for change in changes:
                if isinstance(change.pages, list):
                    self._arena.put("page_table", change.row * max_pages + change.first, change.pages)
                else:
                    self._arena.begin_row("page_table", change.row, change.pages)
            changes.clear()
        self._arena.send()

    def _set_bias(self, row: int, params: SamplingParams) -> None:
        bias = dict(params.logit_bias)
        if outside := [token for token in bias if not 0 <= token < self._vocab_size]:
            raise InvalidRequestError(
                f"logit_bias: token id {outside[0]} is outside the vocabulary, 0 to {self._vocab_size - 1} is accepted",
                field="logit_bias",
            )
        set_row_bias(
            self.state.bias,
            row,
            to_device(list(bias), torch.int32, self._device),
            to_device(list(bias.values()), torch.float32, self._device),
        )


def sampling_flags(params: SamplingParams, *, has_matcher: bool) -> SamplingFlag:
    """What sampling has to do for a request."""
    flags = SamplingFlag(0)
    draws = params.temperature >= GREEDY_BELOW and params.top_k != 1
    penalized = params.repetition_penalty != 1.0 or params.presence_penalty != 0.0 or params.frequency_penalty != 0.0
    for flag, wanted in {
        SamplingFlag.DRAW: draws,
        SamplingFlag.RANKED: draws and (params.top_k > 0 or params.top_p < 1.0),
        SamplingFlag.FLOORED: draws and params.min_p > 0.0,
        SamplingFlag.PENALIZED: penalized,
        SamplingFlag.BIASED: bool(params.logit_bias),
        SamplingFlag.MASKED: has_matcher,
        SamplingFlag.LOGPROBS: params.top_logprobs is not None,
    }.items():
        if wanted:
            flags |= flag
    return flags


def _padded(ids: Items[int]) -> np.ndarray:
    padded = np.full(MAX_STOP_IDS, -1, np.int32)
    padded[: len(ids)] = ids
    return padded
