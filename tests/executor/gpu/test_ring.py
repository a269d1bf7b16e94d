"""Results are there when all lines of a step carry its tag, and say what failed."""

from __future__ import annotations

import threading

import pytest
import torch

from bough.executor.gpu.ring import SLOTS, ResultRing
from bough.kernels.gpu.sampling import SampleCode
from bough.kernels.gpu.sampling_types import TAG_BITS

LINES = 5


@pytest.fixture
def ring() -> ResultRing:
    return ResultRing(LINES, torch.device("cpu"))


def write(ring: ResultRing, number: int, line: int, token: int, code: int = 0) -> None:
    """As the sampling kernel writes a record."""
    tag = number % (1 << TAG_BITS)
    ring.records[number % SLOTS, line] = tag << 40 | code << 32 | token


def test_nothing_is_there_before_it_is_written(ring: ResultRing) -> None:
    for number in (0, 1, (1 << TAG_BITS) - 1, 1 << TAG_BITS):
        assert not ring.is_there(number, 1)
    assert ring.step_counter.tolist() == [0] and ring.step_counter.dtype == torch.int32


def test_a_step_is_there_when_its_last_line_is(ring: ResultRing) -> None:
    number = ring.next_number()
    for line in (2, 0):
        write(ring, number, line, 40 + line)
        assert not ring.is_there(number, 3)
    write(ring, number, 1, 41)
    assert ring.is_there(number, 3) and not ring.is_there(number, LINES)
    assert ring.read(number, 3) == ([40, 41, 42], {})


def test_results_of_the_step_that_had_the_slot_before_do_not_count(ring: ResultRing) -> None:
    for number in range(3 * SLOTS):
        assert ring.next_number() == number
        assert not ring.is_there(number, 2)
        for line in range(2):
            write(ring, number, line, 100 * number + line)
        assert ring.is_there(number, 2)
        assert number < SLOTS or not ring.is_there(number - SLOTS, 2)
        assert ring.read(number, 2)[0] == [100 * number, 100 * number + 1]


def test_numbers_beyond_the_bits_of_a_tag_go_on(ring: ResultRing) -> None:
    for number in ((1 << TAG_BITS) - 1, 1 << TAG_BITS, (1 << TAG_BITS) + 1, (2 << TAG_BITS) + 5):
        assert not ring.is_there(number, 1)
        write(ring, number, 0, (1 << 32) - 1 - number % 2)
        assert ring.is_there(number, 1)
        assert ring.read(number, 1) == ([(1 << 32) - 1 - number % 2], {})


def test_failed_lines_are_told_by_their_code_and_a_stop_is_no_failure(ring: ResultRing) -> None:
    codes = [0, SampleCode.STOP, SampleCode.NOT_FINITE, SampleCode.NOTHING_ALLOWED, SampleCode.NOT_FINITE | 1]
    for line, code in enumerate(codes):
        write(ring, 3, line, 7, int(code))
    assert ring.read(3, LINES) == (
        [7] * LINES,
        {2: SampleCode.NOT_FINITE, 3: SampleCode.NOTHING_ALLOWED, 4: SampleCode.NOT_FINITE},
    )


def test_waiting_ends_when_the_last_record_comes(ring: ResultRing) -> None:
    write(ring, 0, 0, 1)
    timer = threading.Timer(0.05, lambda: write(ring, 0, 1, 2))
    timer.start()
    ring.wait(0, 2, check=lambda: None)
    timer.join()
    assert ring.read(0, 2)[0] == [1, 2]


def test_waiting_for_a_gpu_that_has_failed_ends_with_its_error(
    ring: ResultRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check() -> None:
        raise RuntimeError("an illegal memory access")

    monkeypatch.setattr("bough.executor.gpu.ring._CHECK_S", 0.01)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        ring.wait(0, 1, check)
