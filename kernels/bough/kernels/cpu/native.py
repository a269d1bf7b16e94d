"""The operations on native code, one call each; `program.py` makes one call of a whole model.

Shapes and formulas are those of `bough.kernels.interface`. Widths must be multiples of 16. Every output row is computed
in one fixed order, so that results do not depend on what else is in the step.
"""

from __future__ import annotations

import ctypes
import weakref
from dataclasses import dataclass

import torch
from torch import Tensor

from bough.kernels.cpu.library import TYPE_CODES, Op, OpKind, Step, load_library
from bough.kernels.interface import Linear, Norm, NormedLinear

WIDTH_MULTIPLE = 16
_PANEL = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedOp:
    """An operation as it was run, and the activations behind its pointer fields (kept alive by being here)."""

    op: Op
    activations: dict[str, Tensor]


class OpRunner:
    """A pool of threads that runs operations, and notes them down while `recording` is a list.

    Not thread-safe: one call at a time.
    """

    def __init__(self, num_threads: int, use_amx: bool = True) -> None:
        self._library = load_library()
        self.recording: list[RecordedOp] | None = None
        self.use_amx = use_amx and bool(self._library.bough_amx_available())
        self._pool = self._library.bough_pool_create(num_threads)
        # not at exit: a step may still be running in another thread, and the threads end with the process anyway
        weakref.finalize(self, self._library.bough_pool_destroy, self._pool).atexit = False

    def run(self, op: Op, step: Step, activations: dict[str, Tensor]) -> None:
        """Point the operation's fields at the activations and run it.

        Args:
            op: the operation, its constant fields set.
            step: the tensors of the step that it reads.
            activations: by field name; all contiguous, with the dtype of the first.
        """
        dtype = next(iter(activations.values())).dtype
        op.type = TYPE_CODES[dtype]
        for name, tensor in activations.items():
            assert tensor.is_contiguous(), name
            setattr(op, name, tensor.data_ptr())
        self.run_all((Op * 1)(op), step)
        if self.recording is not None:
            self.recording.append(RecordedOp(op=op, activations=activations))

    def run_all(self, ops: ctypes.Array[Op], step: Step, seconds: ctypes.Array[ctypes.c_double] | None = None) -> None:
        """Run a list of operations over one step; `seconds` takes the time of each."""
        self._library.bough_run(
            self._pool,
            ctypes.addressof(ops),
            len(ops),
            ctypes.addressof(step),
            int(self.use_amx),
            None if seconds is None else ctypes.addressof(seconds),
        )

    def pack(self, weight: Tensor, order: Tensor) -> Tensor:
        """Panels of 16 columns of a weight [out, in] for the product: `order` names the row that each column is."""
        packed = torch.empty(order.shape[0] * weight.shape[1], dtype=weight.dtype)
        self._library.bough_pack(
            weight.data_ptr(),
            packed.data_ptr(),
            order.data_ptr(),
            order.shape[0],
            weight.shape[1],
            TYPE_CODES[weight.dtype],
        )
        return packed


class NativeLinear:
    """A packed weight; see `Linear`."""

    def __init__(self, runner: OpRunner, weight: Tensor, bias: Tensor | None, gated: bool = False) -> None:
        self._runner = runner
        self._gated = gated
        self._out, self._in = weight.shape
        if self._in % WIDTH_MULTIPLE or (gated and self._out % (2 * _PANEL)):
            raise ValueError(f"a weight {list(weight.shape)} does not fill panels of {_PANEL}")
        order = _column_order(self._out, gated)
        self._weight = runner.pack(weight.contiguous(), order)
        self._bias = None
        if bias is not None:
            # the appended zero is what the padding columns (-1) pick
            self._bias = torch.cat((bias.float(), torch.zeros(1)))[order].contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        """Map [T, in] to [T, out]."""
        columns = self._out // 2 if self._gated else self._out
        out = x.new_empty(x.shape[0], columns)
        kind = OpKind.GATED_LINEAR if self._gated else OpKind.LINEAR
        self._run(kind, Step(num_tokens=x.shape[0]), {"input": x, "output": out})
        return out

    def add_to(self, residual: Tensor, x: Tensor) -> None:
        """Add the result into the residual."""
        self._run(OpKind.ADD_LINEAR, Step(num_tokens=x.shape[0]), {"input": x, "output": residual})

    def logits(self, x: Tensor) -> Tensor:
        """Map [T, in] to [T, out] in float32."""
        out = torch.empty(x.shape[0], self._out)
        self._run(OpKind.LOGITS, Step(num_tokens=x.shape[0], logits=out.data_ptr()), {"input": x})
        return out

    def _run(self, kind: OpKind, step: Step, activations: dict[str, Tensor]) -> None:
        op = Op(
            kind=kind,
            weight=self._weight.data_ptr(),
            weight2=None if self._bias is None else self._bias.data_ptr(),
            in_features=self._in,
            out_features=self._out,
        )
        self._runner.run(op, step, activations)


def _column_order(num_columns: int, gated: bool) -> Tensor:
    """Source row of each packed column, int64: padded to whole panels; gated, panels of gate and up take turns."""
    if gated:
        return torch.arange(num_columns).view(2, -1, _PANEL).transpose(0, 1).flatten().contiguous()
    padding = -num_columns % _PANEL
    return torch.cat((torch.arange(num_columns), torch.full((padding,), -1)))


class NativeKernels:
    """See `Kernels`."""

    name = "native"

    def __init__(self, runner: OpRunner) -> None:
        self.runner = runner

    def embed(self, table: Tensor, tokens: Tensor, out: Tensor | None = None) -> Tensor:
        """Look tokens up."""
        out = table.new_empty(tokens.shape[0], table.shape[1]) if out is None else out
        op = Op(kind=OpKind.EMBED, weight=table.data_ptr(), in_features=table.shape[1])
        self.runner.run(op, Step(num_tokens=tokens.shape[0], tokens=tokens.data_ptr()), {"output": out})
        return out

    def take_rows(self, x: Tensor, rows: Tensor) -> Tensor:
        """Pick rows."""
        out = x.new_empty(rows.shape[0], x.shape[1])
        op = Op(kind=OpKind.TAKE_ROWS, in_features=x.shape[1])
        step = Step(num_tokens=x.shape[0], num_logits=rows.shape[0], logit_rows=rows.data_ptr())
        self.runner.run(op, step, {"input": x, "output": out})
        return out

    def rms_norm(self, x: Tensor, norm: Norm) -> Tensor:
        """Root-mean-square norm."""
        out = torch.empty_like(x)
        op = Op(kind=OpKind.NORM, weight=norm.weight.data_ptr(), in_features=x.shape[1], eps=norm.eps)
        self.runner.run(op, Step(num_tokens=x.shape[0]), {"input": x, "output": out})
        return out

    def linear(self, weight: Tensor, bias: Tensor | None = None, norm: Norm | None = None) -> Linear:
        """Pack a weight."""
        return self._normed(NativeLinear(self.runner, weight, bias), norm)

    def gated_linear(
        self,
        gate: Tensor,
        up: Tensor,
        gate_bias: Tensor | None = None,
        up_bias: Tensor | None = None,
        norm: Norm | None = None,
    ) -> Linear:
        """Pack two weights for one product."""
        bias = None if gate_bias is None or up_bias is None else torch.cat((gate_bias, up_bias))
        return self._normed(NativeLinear(self.runner, torch.cat((gate, up)), bias, gated=True), norm)

    def _normed(self, linear: Linear, norm: Norm | None) -> Linear:
        return linear if norm is None else NormedLinear(self, norm, linear)
