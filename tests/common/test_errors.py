"""The tree of errors and its statuses."""

from __future__ import annotations

import grpc
import pytest

from bough.common import errors
from bough.common.errors import BoughError, OverloadedError, code_number, error_from_number, error_from_status


def all_errors() -> list[type[BoughError]]:
    found, todo = [], [BoughError]
    while todo:
        kind = todo.pop()
        found.append(kind)
        todo += kind.__subclasses__()
    return [kind for kind in found if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", all_errors())
def test_the_docstrings_table_names_each_error_with_its_statuses(kind: type[BoughError]) -> None:
    if kind is BoughError:
        return
    [line] = [line for line in (errors.__doc__ or "").splitlines() if f" {kind.__name__} " in line]
    assert kind.code.name in line
    assert f" {kind.http_status} " in line


@pytest.mark.parametrize(
    "code",
    ["INVALID_ARGUMENT", "NOT_FOUND", "OUT_OF_RANGE", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "FAILED_PRECONDITION"],
)
def test_an_error_survives_the_way_over_the_wire(code: str) -> None:
    status = grpc.StatusCode[code]
    error = error_from_status(status, "words", retry_after_s=7)
    assert error.code is status
    assert str(error) == "words"
    again = error_from_number(code_number(error), "words", retry_after_s=7)
    assert type(again) is type(error)


def test_an_overload_keeps_when_to_try_again() -> None:
    error = error_from_number(8, "full", retry_after_s=12.5)
    assert isinstance(error, OverloadedError)
    assert error.retry_after_s == 12.5
    assert error.retryable


def test_a_peer_that_did_not_answer_in_time_is_unavailable() -> None:
    assert error_from_status(grpc.StatusCode.DEADLINE_EXCEEDED, "late").http_status == 503


@pytest.mark.parametrize("number", [0, 2, 13, 99])
def test_what_we_do_not_know_is_a_fault_of_ours(number: int) -> None:
    assert error_from_number(number, "odd").http_status == 500


def test_an_exception_that_is_none_of_ours_counts_as_internal() -> None:
    assert code_number(KeyError("x")) == grpc.StatusCode.INTERNAL.value[0]
