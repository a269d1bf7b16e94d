"""A whole forward pass as one native call: operations recorded once, then replayed on steps of any size.

Recording runs the model's own Python on a step of two tokens of which one wants logits, so that the number of rows of
an activation (2 or 1) tells which of the two counts it follows. The cost of a step outside native code is then one
call, and the interpreter lock is given up and taken back once.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from bough.kernels.cpu.library import Op, OpKind, Step
from bough.kernels.cpu.native import OpRunner, RecordedOp

_ROWS_OF_LOGITS = 1
"""Rows of activations that follow the logits while recording; the others have two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pointer:
    """A field of an operation that points at an activation buffer."""

    op: int
    field: str
    buffer: int


class Program:
    """The recorded operations and the buffers for what passes between them."""

    def __init__(self, runner: OpRunner, recorded: list[RecordedOp], vocab_size: int) -> None:
        self._runner = runner
        self._vocab_size = vocab_size
        self._ops = (Op * len(recorded))(*(item.op for item in recorded))
        for op, item in zip(self._ops, recorded, strict=True):
            activation = item.activations["input"] if "input" in item.activations else item.activations["output"]
            op.on_logit_rows = int(activation.shape[0] == _ROWS_OF_LOGITS and op.kind != OpKind.TAKE_ROWS)
        self._pointers, self._row_bytes = _assign_buffers(recorded)
        self._buffers: list[Tensor] = []
        self._capacity = 0

    def run(self, step: Step) -> Tensor:
        """Run a step whose tensors are set, and return its logits [num_logits, vocab] float32."""
        self.reserve(step.num_tokens)
        logits = torch.empty(step.num_logits, self._vocab_size)
        step.logits = logits.data_ptr()
        self._runner.run_all(self._ops, step)
        return logits

    def run_timed(self, step: Step) -> dict[str, float]:
        """Run a step and return the seconds that each kind of operation took."""
        seconds = (ctypes.c_double * len(self._ops))()
        logits = self.run(step)
        step.logits = logits.data_ptr()
        self._runner.run_all(self._ops, step, seconds)
        totals: dict[str, float] = {}
        for op, elapsed in zip(self._ops, seconds, strict=True):
            name = OpKind(op.kind).name.lower()
            totals[name] = totals.get(name, 0.0) + elapsed
        return totals

    def reserve(self, num_tokens: int) -> None:
        """Have buffers, in memory and not only promised, for steps of that many tokens."""
        if num_tokens <= self._capacity:
            return
        self._buffers.clear()
        self._buffers = [torch.zeros(num_tokens * size, dtype=torch.uint8) for size in self._row_bytes]
        for pointer in self._pointers:
            setattr(self._ops[pointer.op], pointer.field, self._buffers[pointer.buffer].data_ptr())
        self._capacity = num_tokens


def _assign_buffers(recorded: list[RecordedOp]) -> tuple[list[_Pointer], list[int]]:
    """Give every activation a buffer that no other one uses during its life; and the bytes per row of each buffer."""
    last_use = {tensor.data_ptr(): index for index, item in enumerate(recorded) for tensor in item.activations.values()}
    buffer_of: dict[int, int] = {}
    free: list[int] = []
    row_bytes: list[int] = []
    pointers = []
    for index, item in enumerate(recorded):
        for field, tensor in item.activations.items():
            address = tensor.data_ptr()
            if address not in buffer_of:
                if not free:
                    free.append(len(row_bytes))
                    row_bytes.append(0)
                buffer_of[address] = free.pop()
            buffer = buffer_of[address]
            row_bytes[buffer] = max(row_bytes[buffer], tensor.shape[1] * tensor.element_size())
            pointers.append(_Pointer(op=index, field=field, buffer=buffer))
        # only now: an output must not lie in the buffer of an input of the same operation
        for address in {tensor.data_ptr() for tensor in item.activations.values()}:
            if last_use[address] == index:
                free.append(buffer_of[address])
    return pointers, row_bytes


def step_address(value: Tensor) -> int:
    """Address of a step tensor, which must be contiguous for native code to read it."""
    assert value.is_contiguous()
    return value.data_ptr()
