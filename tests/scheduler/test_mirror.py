"""The mirror of an executor's prefix cache."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bough.common.prefix_hash import prefix_hashes
from bough.scheduler.mirror import PrefixMirror, PromptHashes, wire_hash

PROMPT = tuple(range(20))


def all_hashes(prompt: tuple[int, ...], namespace: bytes = b"") -> list[int]:
    return [wire_hash(digest) for digest in prefix_hashes(namespace, prompt, 4)]


def test_a_page_is_named_by_the_first_8_bytes_of_its_hash_as_the_executor_names_it() -> None:
    lazily = PromptHashes(b"ns", PROMPT, 4)
    assert [lazily[i] for i in range(5)] == all_hashes(PROMPT, b"ns")
    assert wire_hash(bytes(range(1, 17))) == 0x0807060504030201


def test_the_page_with_the_last_prompt_token_is_no_match_since_its_logits_are_wanted() -> None:
    mirror = PrefixMirror()
    mirror.apply(stored=all_hashes(PROMPT), removed=(), cleared=False)
    assert mirror.matched_tokens(b"", PROMPT, 4) == 16
    assert mirror.matched_tokens(b"", (*PROMPT, 99), 4) == 20


def test_another_namespace_matches_nothing() -> None:
    mirror = PrefixMirror()
    mirror.apply(stored=all_hashes(PROMPT), removed=(), cleared=False)
    assert mirror.matched_tokens(b"tenant", PROMPT, 4) == 0


def test_removed_pages_are_gone_and_clearing_comes_before_the_other_events() -> None:
    mirror, hashes = PrefixMirror(), all_hashes(PROMPT)
    mirror.apply(stored=hashes, removed=hashes[2:], cleared=False)
    assert mirror.matched_tokens(b"", PROMPT, 4) == 8
    mirror.apply(stored=hashes[:1], removed=(), cleared=True)
    assert len(mirror) == 1


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=20))
def test_a_hint_never_changes_the_answer(sizes: list[tuple[int, int]]) -> None:
    hashes, mirror, hint = PromptHashes(b"", (*PROMPT, 0), 4), PrefixMirror(), 0
    for held, _ in sizes:
        mirror.apply(stored=[hashes[i] for i in range(held)], removed=(), cleared=True)
        hint = mirror.matched_pages(hashes, hint)
        assert hint == held


@given(st.lists(st.integers(0, 9), min_size=1, max_size=4), st.lists(st.integers(0, 40), max_size=8))
def test_hashes_behind_those_of_prompts_that_a_prompt_begins_with_are_the_same(
    growth: list[int], asked: list[int]
) -> None:
    prompt: tuple[int, ...] = (1,)
    before: PromptHashes | None = None
    chain: list[PromptHashes] = []
    for step in growth:
        prompt += tuple(range(step))
        before = PromptHashes(b"ns", prompt, 4, before)
        chain.append(before)
    expected = all_hashes(prompt, b"ns")
    for number, page in enumerate([*asked, chain[-1].num_pages - 1]):
        hashes = chain[-1 - number % len(chain)]
        if 0 <= page < hashes.num_pages:
            assert hashes[page] == expected[page]
