"""Prompts that begin alike are tuples to whoever reads them, and cost only what they have of their own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bough.common.prefix_hash import prefix_hashes
from bough.common.requests import Submission
from bough.common.sampling import SamplingParams
from bough.scheduler.executors import Capacity, Executor
from bough.scheduler.mirror import wire_hash
from bough.scheduler.prompts import PromptTokens, SharedPrompt
from bough.scheduler.queue import Waiting
from tests.scheduler.simulated import World, submission

LONG = tuple(range(1000, 3000))
PAGE_SIZE = 16


@given(
    st.lists(st.lists(st.integers(0, 9), max_size=4).map(tuple), min_size=1, max_size=5),
    st.none() | st.integers(-15, 15),
    st.none() | st.integers(-15, 15),
    st.sampled_from([None, 1, 2, -1]),
)
def test_tokens_in_pieces_read_as_one_tuple(
    pieces: list[tuple[int, ...]], start: int | None, end: int | None, step: int | None
) -> None:
    whole: tuple[int, ...] = ()
    tokens: PromptTokens | None = None
    for piece in pieces:
        whole += piece
        tokens = PromptTokens(tokens, piece)
    assert tokens is not None
    assert (tuple(tokens), len(tokens)) == (whole, len(whole))
    assert tokens[start:end:step] == whole[start:end:step]
    assert [tokens[index] for index in range(-len(whole), len(whole))] == [*whole, *whole]


def test_a_long_chain_of_prompts_is_cut_and_stays_whole() -> None:
    whole: tuple[int, ...] = (0,)
    prompt = SharedPrompt(whole)
    for number in range(1, 40):
        prompt, whole = SharedPrompt((number,), prompt), (*whole, number)
        assert tuple(prompt.tokens) == whole
        assert sum(part.num_own for part in prompt.parts()) == len(whole)
        assert len(list(prompt.parts())) <= 9


class CountingSet(set[int]):
    """Counts how often somebody looks into it."""

    num_looks = 0

    def __contains__(self, page: object) -> bool:
        self.num_looks += 1
        return super().__contains__(page)


def branch_of(state: SharedPrompt, own: tuple[int, ...]) -> Waiting:
    world = World(attached=False)
    prompt = SharedPrompt(own, state)
    world.submit(submission(1))
    [record] = world.core.ledger.records.values()
    call = Submission(requests=(1,), prompt=prompt.tokens, sampling=SamplingParams())
    record.submission, record.prompt = call, prompt
    return Waiting.of([record])


@given(parts=st.lists(st.integers(0, 40), min_size=1, max_size=5))
def test_hashes_of_a_prompt_in_parts_are_those_of_the_whole_also_where_parts_are_empty(parts: list[int]) -> None:
    prompt, place = None, 0
    for num_tokens in parts:
        prompt, place = SharedPrompt(LONG[place : place + num_tokens], prompt), place + num_tokens
    assert prompt is not None
    right = [wire_hash(digest) for digest in prefix_hashes(b"", LONG[:place], PAGE_SIZE)]
    assert list(prompt.hashes(b"", PAGE_SIZE).since(0)) == right[: max(place - 1, 0) // PAGE_SIZE]


def test_what_is_cached_of_a_state_is_looked_for_once_for_its_branches() -> None:
    executor = Executor("executor-0", lambda: None)
    executor.capacity = Capacity(num_pages=1000, page_size=PAGE_SIZE, max_rows=8, token_budget=64)
    pages = CountingSet(wire_hash(digest) for digest in prefix_hashes(b"", LONG, PAGE_SIZE))
    executor.mirror._pages = pages
    state = SharedPrompt(LONG)
    cached = len(LONG) // PAGE_SIZE * PAGE_SIZE
    assert branch_of(state, (1,)).cached_tokens(executor) == cached
    pages.num_looks = 0
    for number in range(20):
        assert branch_of(state, (number,) * 20).cached_tokens(executor) == cached
    assert pages.num_looks <= 20 * 3
    # Nor is what has gone meanwhile.
    pages.clear()
    pages.add(1)
    assert branch_of(state, (2,)).cached_tokens(executor) == 0
    pages.num_looks = 0
    assert branch_of(state, (3,)).cached_tokens(executor) == 0
    assert pages.num_looks <= 3
