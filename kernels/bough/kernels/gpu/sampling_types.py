"""What the sampling kernels share: the state of the rows, the workspace of a step, the numbers both sides agree on."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntFlag

import torch
import triton
from torch import Tensor

CHUNK = 4096
"""Tokens that one program reduces. Fixed, so that rounding, hence a token, never depends on who shares the batch."""
BLOCK = 128
"""Tokens whose largest logit is kept for lines with top-k: a warp's width of 16-byte loads."""
NUM_PIVOTS = 8
CAPACITY = 128
"""Candidates for the cut that a chunk may keep; a line with a fuller chunk is searched from its logits (slowly)."""
MAX_STOP_IDS = 1024
MAX_TOP_LOGPROBS = 20
TAG_BITS = 23


class SamplingFlag(IntFlag):
    """What a row asks for: bits of `SamplingState.flags`."""

    DRAW = 1
    """Draws at random; without it the row is greedy and RANKED and FLOORED have no effect."""
    RANKED = 2
    """Has top-k or top-p."""
    FLOORED = 4
    """Has min-p."""
    PENALIZED = 8
    BIASED = 16
    MASKED = 32
    """Has a grammar; the masks of its lines already tell which tokens may end the sequence."""
    LOGPROBS = 64


class SampleCode(IntFlag):
    """Bits 32 to 39 of a record."""

    STOP = 1
    """The token ends the sequence."""
    NOTHING_ALLOWED = 2
    """All logits are -inf; the token is 0."""
    NOT_FINITE = 4
    """The logits contain NaN or +inf; the token is 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingState:
    """The state of R stable rows, on the device.

    The one-dimensional fields of 4 bytes share one stride, so they may be columns or rows of one int32 arena viewed
    as what each is; `seed` has its own. The last dimension of two-dimensional fields is contiguous.
    """

    flags: Tensor
    """[R] int32 of `SamplingFlag`."""
    temperature: Tensor
    """[R] float32, positive where the row draws."""
    top_k: Tensor
    """[R] int32; 0, or V and more, keeps all."""
    top_p: Tensor
    """[R] float32; 1 keeps all."""
    min_p: Tensor
    """[R] float32"""
    presence: Tensor
    """[R] float32"""
    frequency: Tensor
    """[R] float32"""
    repetition: Tensor
    """[R] float32, positive."""
    min_tokens: Tensor
    """[R] int32: tokens in `ending_ids` are forbidden at output positions below this, except where MASKED."""
    first_stop: Tensor
    """[R] int32: output position from which on a token in `stop_ids` ends the sequence."""
    num_prompt: Tensor
    """[R] int32: tokens of the prompt; output position = sequence position - num_prompt."""
    seed: Tensor
    """[R] int64: the bits of the uint64 seeds."""
    stop_ids: Tensor
    """[R, 1024] int32, padded with -1."""
    ending_ids: Tensor
    """[R, 1024] int32, padded with -1."""
    counts: Tensor
    """[R, V] int32: how often each token was produced; the sign bit says that it is in the prompt."""
    bias: Tensor
    """[R, V] float32: what is added to each logit."""
    token: Tensor
    """[R] int32, contiguous: the token sampled last, advanced by `select`; see there for rows with several lines."""
    position: Tensor
    """[R] int32, contiguous: the sequence position of `token`, that is the next one to compute."""

    def __post_init__(self) -> None:
        num_rows, stride = self.flags.shape[0], self.flags.stride(0)
        for field in fields(self):
            tensor: Tensor = getattr(self, field.name)
            if tensor.dtype != _STATE_DTYPES[field.name]:
                raise ValueError(f"{field.name} has type {tensor.dtype}; {_STATE_DTYPES[field.name]} is accepted")
            flat = field.name not in _WIDE
            if tensor.dim() != (1 if flat else 2) or tensor.shape[0] != num_rows:
                raise ValueError(f"{field.name} has shape {tuple(tensor.shape)}; flags have {num_rows} rows")
            if not flat and tensor.stride(1) != 1:
                raise ValueError(f"the last dimension of {field.name} must be contiguous")
            if field.name in ("token", "position") and not tensor.is_contiguous():
                raise ValueError(f"{field.name} must be contiguous")
            if flat and field.name not in ("seed", "token", "position") and tensor.stride(0) != stride:
                raise ValueError(f"{field.name} has stride {tensor.stride(0)}, flags have {stride}; one is accepted")
        for name in ("stop_ids", "ending_ids"):
            if getattr(self, name).shape[1] != MAX_STOP_IDS:
                raise ValueError(f"{name} has {getattr(self, name).shape[1]} columns; {MAX_STOP_IDS} are accepted")
        if self.bias.shape != self.counts.shape:
            raise ValueError(f"bias has shape {tuple(self.bias.shape)}, counts have {tuple(self.counts.shape)}")

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.counts.shape[1]

    @classmethod
    def empty(cls, num_rows: int, vocab_size: int, device: torch.device | str) -> SamplingState:
        """Rows that ask for nothing (greedy), each field a tensor of its own; `counts` and `bias` take 8 R V bytes."""
        widths = {
            "stop_ids": MAX_STOP_IDS,
            "ending_ids": MAX_STOP_IDS,
            "counts": vocab_size,
            "bias": vocab_size,
        }
        neutral = {"temperature": 1, "top_p": 1, "repetition": 1, "stop_ids": -1, "ending_ids": -1}
        return cls(
            **{
                name: torch.full(
                    (num_rows, widths[name]) if name in widths else (num_rows,),
                    neutral.get(name, 0),
                    dtype=dtype,
                    device=device,
                )
                for name, dtype in _STATE_DTYPES.items()
            }
        )


_WIDE = frozenset({"stop_ids", "ending_ids", "counts", "bias"})
_FLOATS = frozenset({"temperature", "top_p", "min_p", "presence", "frequency", "repetition", "bias"})
_STATE_DTYPES = {
    field.name: torch.int64 if field.name == "seed" else torch.float32 if field.name in _FLOATS else torch.int32
    for field in fields(SamplingState)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LogprobOutputs:
    """Log probabilities of one step; lines whose row did not ask, padding and failed lines hold nothing of meaning."""

    logprobs: Tensor
    """[L] float32: of the sampled token, from the raw logits."""
    ranks: Tensor
    """[L] int32: 1 for the likeliest token."""
    top_ids: Tensor
    """[L, K] int32: the likeliest tokens, the lowest id first among equals."""
    top_logprobs: Tensor
    """[L, K] float32"""


class SamplingWorkspace:
    """Device memory that the sampling kernels pass on among themselves, made once for L lines of V logits.

    Two steps that share it must run one after the other (one stream). `tokens` [L] int32 holds what was sampled last.
    `masks` [L, ceil(V / 32)] int32 is the caller's to fill before a step, for lines whose row is MASKED: bit `v % 32`
    of word `v // 32` is 1 where token v is allowed. Masks are of lines, as those of one row have different ones.

    Args:
        max_lines: L.
        vocab_size: V.
        device: where the logits are.
        num_top: K, the likeliest tokens that the log probabilities list, at most 20; None: no log probabilities.
            They need a copy of the logits that penalties or masks change: L V floats.

    Raises:
        ValueError: a size is out of its range.
    """

    def __init__(
        self, max_lines: int, vocab_size: int, device: torch.device | str, *, num_top: int | None = None
    ) -> None:
        if max_lines < 1:
            raise ValueError(f"max_lines is {max_lines}; at least 1 is accepted")
        if not 1 <= vocab_size < 2**24:
            raise ValueError(f"vocab_size is {vocab_size}; 1 to 2^24 - 1 are accepted (counts are kept in float32)")
        if num_top is not None and not 0 <= num_top <= MAX_TOP_LOGPROBS:
            raise ValueError(f"num_top is {num_top}; 0 to {MAX_TOP_LOGPROBS} are accepted")
        self.max_lines, self.vocab_size, self.num_top = max_lines, vocab_size, num_top
        self.num_chunks = triton.cdiv(vocab_size, CHUNK)
        lines, chunks = max_lines, self.num_chunks

        def floats(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.float32, device=device)

        def ints(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int32, device=device)

        self.chunk_max, self.chunk_argmax, self.chunk_sum = (
            floats(lines, chunks),
            ints(lines, chunks),
            floats(lines, chunks),
        )
        self.block_max = floats(lines, chunks * (CHUNK // BLOCK))
        self.mode, self.line_max, self.cut = ints(lines), floats(lines), floats(lines)
        self.target = torch.zeros(lines, dtype=torch.float64, device=device)
        self.pivots, self.measures = floats(lines, NUM_PIVOTS), floats(lines, chunks, NUM_PIVOTS)
        self.candidates, self.num_candidates = floats(lines, chunks, CAPACITY), ints(lines, chunks)
        self.kept_sum = floats(lines, chunks)
        self.tokens, self.arrivals = ints(lines), ints(1)
        self.masks = ints(lines, triton.cdiv(vocab_size, 32))
        top = num_top or 0
        self.raw = floats(lines, vocab_size) if num_top is not None else None
        self.raw_max, self.raw_sum = floats(lines, chunks), floats(lines, chunks)
        self.chunk_top = torch.zeros(lines, chunks, top, dtype=torch.int64, device=device)
        self.outputs = LogprobOutputs(
            logprobs=floats(lines), ranks=ints(lines), top_ids=ints(lines, top), top_logprobs=floats(lines, top)
        )


def check_lines(
    logits: Tensor, rows: Tensor, sampled_position: Tensor, state: SamplingState, workspace: SamplingWorkspace
) -> int:
    """Check what every launcher takes, and return S.

    Raises:
        ValueError: an argument has another type, shape or layout than the kernels read; the text names it.
    """
    if logits.dim() != 2 or logits.dtype != torch.float32 or (logits.shape[0] > 0 and logits.stride(1) != 1):
        raise ValueError(
            f"logits are {tuple(logits.shape)} of {logits.dtype} with strides {logits.stride()}; "
            "[S, V] of torch.float32 with contiguous lines is accepted"
        )
    num_lines, vocab_size = logits.shape
    if vocab_size != state.vocab_size or vocab_size != workspace.vocab_size:
        raise ValueError(
            f"logits have {vocab_size} columns, the state {state.vocab_size}, the workspace {workspace.vocab_size}"
        )
    if num_lines > workspace.max_lines:
        raise ValueError(f"logits have {num_lines} lines; the workspace has room for {workspace.max_lines}")
    for name, tensor in (("rows", rows), ("sampled_position", sampled_position)):
        if tensor.dtype != torch.int32 or tensor.shape != (num_lines,) or not tensor.is_contiguous():
            raise ValueError(
                f"{name} is {tuple(tensor.shape)} of {tensor.dtype}; "
                f"contiguous [{num_lines}] of torch.int32 is accepted"
            )
    return num_lines
