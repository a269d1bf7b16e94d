"""Text and tokens arrive once, in order and whole, however a detokenizer cuts and repeats them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bough.common.errors import UnavailableError
from bough.common.sampling import FinishReason
from bough.gateway.codec import deliver_text
from bough.gateway.errors import ClientGoneError
from bough.gateway.receiver import Call, Piece, TextRow
from bough.rpc.v1 import common_pb2, detokenizer_pb2

TEXT = "a🌳bc déf"


def row(start: int, end: int, *, text_end: int | None = None, finish: FinishReason = FinishReason.NONE) -> TextRow:
    text = TEXT[start : end if text_end is None else text_end]
    return TextRow(7, start, list(map(ord, TEXT[start:end])), finish, start, text)


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=20))
def test_repeated_and_overlapping_rows_add_up_to_the_text_once(cuts: list[tuple[int, int]]) -> None:
    call = Call("test")
    receiver = call.add(7, None)
    for back, ahead in cuts:
        start = max(0, receiver.position - back)
        receiver.accept(row(start, min(len(TEXT), receiver.position + ahead)))
    receiver.accept(row(receiver.position, len(TEXT), finish=FinishReason.STOP))
    receiver.accept(row(0, len(TEXT), finish=FinishReason.LENGTH))
    piece = receiver.take()
    assert (piece.text, piece.tokens) == (TEXT, list(map(ord, TEXT)))
    assert piece.finish is FinishReason.STOP, "the first end counts"
    assert call.num_open == 0


def test_text_may_lag_behind_tokens() -> None:
    receiver = Call("test").add(7, None)
    receiver.accept(row(0, 3, text_end=1))
    receiver.accept(TextRow(7, 3, [ord("c")], FinishReason.NONE, 1, TEXT[1:4]))
    piece = receiver.take()
    assert (piece.text, piece.next_position) == (TEXT[:4], 4)


@pytest.mark.parametrize(("position", "offset"), [(3, 2), (2, 3)])
def test_a_gap_breaks_the_stream_instead_of_the_text(position: int, offset: int) -> None:
    receiver = Call("test").add(7, None)
    receiver.accept(row(0, 2))
    with pytest.raises(UnavailableError, match="misses something"):
        receiver.accept(TextRow(7, position, [1], FinishReason.NONE, offset, "x"))
    assert (receiver.position, receiver.text_offset) == (2, 2)


async def test_an_error_is_told_after_all_that_came_before_it() -> None:
    call = Call("test")
    receiver = call.add(7, None)
    receiver.accept(row(0, 2))
    call.fail(ClientGoneError())
    call.fail(UnavailableError("later"))
    assert [piece.text for piece in await call.pieces()] == [TEXT[:2]]
    with pytest.raises(ClientGoneError):
        await call.pieces()


async def test_one_look_gets_all_that_has_gathered() -> None:
    call = Call("test")
    receivers = [call.add(request, None) for request in (7, 8)]
    looking = asyncio.create_task(call.pieces())
    await asyncio.sleep(0)
    for part in range(3):
        receivers[1].accept(row(part, part + 1))
    receivers[0].accept(row(0, 1))
    call.notify()
    pieces = await looking
    assert [(piece.index, piece.text) for piece in pieces] == [(1, TEXT[:3]), (0, TEXT[:1])]


async def test_text_that_comes_with_the_error_is_handed_out_before_it() -> None:
    call = Call("test")
    failed, other = call.add(7, None), call.add(8, None)
    call.fail(UnavailableError("out of memory"))
    failed.accept(row(0, 2, finish=FinishReason.ERROR))
    other.accept(row(0, 1))
    assert [(piece.index, piece.text, piece.finish) for piece in await call.pieces()] == [
        (0, TEXT[:2], FinishReason.NONE),
        (1, TEXT[:1], FinishReason.NONE),
    ]
    with pytest.raises(UnavailableError, match="out of memory"):
        await call.pieces()


async def test_pieces_are_handed_over_once_a_message_and_the_end_ends_it() -> None:
    call = Call("test")
    receivers = [call.add(request, None) for request in (7, 8)]
    taken: list[list[str]] = []
    running = asyncio.create_task(call.each(lambda pieces: taken.append([piece.text for piece in pieces])))
    await asyncio.sleep(0)
    for receiver in receivers:
        receiver.accept(row(0, 1))
    assert taken == []
    call.notify()
    assert taken == [[TEXT[:1], TEXT[:1]]], "without a turn of the loop"
    for receiver in receivers:
        receiver.accept(row(1, len(TEXT), finish=FinishReason.STOP))
        call.notify()
    await running
    assert taken[1:] == [[TEXT[1:]], [TEXT[1:]]]


async def test_a_taker_that_waits_gets_what_gathered_meanwhile_in_one_piece() -> None:
    call = Call("test")
    receiver = call.add(7, None)
    taken: list[str] = []
    caught_up = asyncio.Event()

    async def catch_up() -> None:
        await caught_up.wait()

    def take(pieces: list[Piece]) -> Awaitable[None] | None:
        taken.append(pieces[0].text)
        return catch_up() if len(taken) == 1 else None

    running = asyncio.create_task(call.each(take))
    await asyncio.sleep(0)
    for start in range(4):
        receiver.accept(row(start, start + 1))
        call.notify()
        await asyncio.sleep(0)
    assert taken == [TEXT[:1]]
    caught_up.set()
    await asyncio.sleep(0.001)
    assert taken == [TEXT[:1], TEXT[1:4]]
    call.fail(ClientGoneError())
    with pytest.raises(ClientGoneError):
        await running


async def test_what_a_taker_raises_ends_the_call_and_not_the_stream_that_feeds_it() -> None:
    call = Call("test")
    receiver = call.add(7, None)

    def take(pieces: list[Piece]) -> None:
        raise ZeroDivisionError

    running = asyncio.create_task(call.each(take))
    await asyncio.sleep(0)
    receiver.accept(row(0, 1))
    call.notify()
    with pytest.raises(ZeroDivisionError):
        await running


def columns(**change: object) -> detokenizer_pb2.TextColumns:
    values: dict[str, object] = {"offsets": [0, 4], "lengths": [2, 1], "text": "éxz", "stop_strings": ["!"]}
    tokens = common_pb2.TokenColumns(
        requests=[1, 2], positions=[0, 4], counts=[2, 1], tokens=[5, 6, 7], finish=[0, FinishReason.STOP_STRING]
    )
    return detokenizer_pb2.TextColumns(tokens=tokens, **{**values, **change})  # type: ignore[arg-type]


def test_columns_come_apart_into_rows() -> None:
    call = Call("test")
    live = {request: call.add(request, None) for request in (1, 2)}
    live[2].position = live[2].text_offset = 4
    touched: dict[Call, None] = {}
    deliver_text(columns(), live, touched)
    assert list(touched) == [call]
    first, second = (receiver.take() for receiver in live.values())
    assert (first.tokens, first.text, first.finish) == ([5, 6], "éx", FinishReason.NONE)
    assert (second.tokens, second.text, second.next_position) == ([7], "z", 5)
    assert (second.finish, second.stop_string) == (FinishReason.STOP_STRING, "!")


@pytest.mark.parametrize("change", [{"offsets": [0]}, {"lengths": [2]}, {"lengths": [2, 2]}, {"text": "éxzz"}])
def test_columns_that_do_not_fit_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"short|long|add up"):
        deliver_text(columns(**change), {}, {})
