"""The native operations compute what the torch reference computes, for every row on its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bough.kernels.cpu.library import Step
from bough.kernels.cpu.native import NativeKernels, OpRunner
from bough.kernels.cpu.program import Program
from bough.kernels.interface import Linear, Norm
from bough.kernels.reference import TorchKernels

REFERENCE = TorchKernels()
# bfloat16 keeps 8 bits: one rounding of the result, and sums of a few hundred products in another order
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}
ROWS = (1, 2, 15, 16, 17, 33, 64, 100)


@pytest.fixture(scope="module", params=[(1, True), (2, True), (3, False)], ids=["1-thread", "2-threads", "no-amx"])
def kernels(request: pytest.FixtureRequest) -> NativeKernels:
    num_threads, use_amx = request.param
    return NativeKernels(OpRunner(num_threads=num_threads, use_amx=use_amx))


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    chosen: torch.dtype = request.param
    return chosen


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 31 * len(shape) + shape[0])
    return torch.randn(*shape, generator=generator).to(dtype)


def assert_close(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(actual.float(), expected.float(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("columns", "inner"), [(16, 16), (48, 64), (80, 96), (100, 160), (768, 256)])
def test_a_linear_layer_equals_the_reference(
    kernels: NativeKernels, dtype: torch.dtype, rows: int, columns: int, inner: int
) -> None:
    weight = random(columns, inner, dtype=dtype) / inner**0.5
    bias = random(columns, dtype=dtype, seed=1)
    x = random(rows, inner, dtype=dtype, seed=2)
    for chosen_bias in (None, bias):
        native, reference = kernels.linear(weight, chosen_bias), REFERENCE.linear(weight, chosen_bias)
        assert_close(native(x), reference(x), dtype)
        wide_bias = None if chosen_bias is None else chosen_bias.float()
        expected_logits = REFERENCE.linear(weight.float(), wide_bias).logits(x.float())
        torch.testing.assert_close(native.logits(x), expected_logits, atol=2e-5, rtol=2e-5)
        residual = random(rows, columns, dtype=dtype, seed=3)
        expected = residual.clone()
        native.add_to(residual, x)
        reference.add_to(expected, x)
        assert_close(residual, expected, dtype)


@pytest.mark.parametrize("rows", ROWS)
def test_a_gated_layer_equals_the_reference(kernels: NativeKernels, dtype: torch.dtype, rows: int) -> None:
    gate, up = (random(112, 64, dtype=dtype, seed=seed) / 8 for seed in (0, 1))
    gate_bias, up_bias = (random(112, dtype=dtype, seed=seed) for seed in (2, 3))
    x = random(rows, 64, dtype=dtype, seed=4)
    assert_close(kernels.gated_linear(gate, up)(x), REFERENCE.gated_linear(gate, up)(x), dtype)
    native = kernels.gated_linear(gate, up, gate_bias, up_bias)
    assert_close(native(x), REFERENCE.gated_linear(gate, up, gate_bias, up_bias)(x), dtype)


@pytest.mark.parametrize("rows", ROWS)
def test_the_norm_equals_the_reference(kernels: NativeKernels, dtype: torch.dtype, rows: int) -> None:
    x, weight = 3 * random(rows, 176, dtype=dtype), random(176, dtype=dtype, seed=1)
    assert_close(kernels.rms_norm(x, Norm(weight, 1e-6)), REFERENCE.rms_norm(x, Norm(weight, 1e-6)), dtype)


def test_rows_are_looked_up_and_picked_exactly(kernels: NativeKernels, dtype: torch.dtype) -> None:
    table = random(50, 48, dtype=dtype)
    tokens = torch.tensor([3, 49, 0, 3])
    assert torch.equal(kernels.embed(table, tokens), table[tokens])
    assert torch.equal(kernels.take_rows(table, tokens), table[tokens])


def test_nothing_asked_for_gives_nothing(kernels: NativeKernels, dtype: torch.dtype) -> None:
    linear = kernels.linear(random(32, 32, dtype=dtype))
    nothing = torch.empty(0, dtype=torch.int64)
    picked = kernels.take_rows(random(4, 32, dtype=dtype), nothing)
    assert picked.shape == (0, 32)
    assert linear(picked).shape == (0, 32)
    assert linear.logits(picked).shape == (0, 32)


def test_a_row_has_the_same_bits_whatever_else_is_in_the_batch(kernels: NativeKernels, dtype: torch.dtype) -> None:
    weight = random(208, 320, dtype=dtype)
    norm = random(320, dtype=dtype)
    x = random(100, 320, dtype=dtype, seed=1)
    operations: list[Callable[[Tensor], Tensor]] = [
        kernels.linear(weight),
        kernels.linear(weight).logits,
        kernels.gated_linear(weight, weight.flip(0)),
        lambda rows: kernels.rms_norm(rows, Norm(norm, 1e-6)),
    ]
    for operation in operations:
        together = operation(x)
        for begin, end in ((0, 1), (7, 8), (16, 33), (50, 100)):
            assert torch.equal(operation(x[begin:end]), together[begin:end])


def test_large_and_small_gates_neither_overflow_nor_vanish(kernels: NativeKernels) -> None:
    x = torch.zeros(4, 16)
    x[:, 0] = torch.tensor([-200.0, -20.0, 20.0, 200.0])
    pick_first = torch.zeros(16, 16)
    pick_first[0, 0] = 1.0
    gated = kernels.gated_linear(pick_first, pick_first)(x)[:, 0]
    torch.testing.assert_close(gated, torch.nn.functional.silu(x[:, 0]) * x[:, 0])


def test_a_weight_that_does_not_fill_panels_is_refused(kernels: NativeKernels) -> None:
    with pytest.raises(ValueError, match="does not fill panels"):
        kernels.linear(torch.zeros(16, 20))


def test_a_recorded_program_repeats_the_operations_on_steps_of_any_size(dtype: torch.dtype) -> None:
    runner = OpRunner(num_threads=2)
    kernels = NativeKernels(runner)
    table, norm = random(40, 64, dtype=dtype), random(64, dtype=dtype)
    first = kernels.linear(random(64, 64, dtype=dtype, seed=1) / 8)
    second = kernels.gated_linear(random(64, 64, dtype=dtype, seed=2) / 8, random(64, 64, dtype=dtype, seed=3) / 8)

    def model(tokens: Tensor, rows: Tensor) -> Tensor:
        hidden = kernels.embed(table, tokens)
        first.add_to(hidden, kernels.rms_norm(hidden, Norm(norm, 1e-6)))
        second_out = second(kernels.rms_norm(hidden, Norm(norm, 1e-6)))
        first.add_to(hidden, second_out)
        return head.logits(kernels.rms_norm(kernels.take_rows(hidden, rows), Norm(norm, 1e-6)))

    head: Linear = kernels.linear(table)
    runner.recording = []
    model(torch.tensor([1, 2]), torch.tensor([1]))
    program = Program(runner, runner.recording, 40)
    runner.recording = None
    for num_tokens, rows in ((1, [0]), (5, [4, 0, 2]), (70, [69]), (3, [])):
        tokens, wanted = torch.arange(num_tokens) % 40, torch.tensor(rows, dtype=torch.int64)
        step = Step(num_tokens=num_tokens, num_logits=len(rows), tokens=tokens.data_ptr(), logit_rows=wanted.data_ptr())
        assert torch.equal(program.run(step), model(tokens, wanted))
