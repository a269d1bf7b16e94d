"""Sequences that share their tokens behave as lists that do not."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from bough.scheduler.token_store import TokenSequence, TokenStore

LONG = tuple(range(32_768))


def tokens_of(sequence: TokenSequence) -> list[int]:
    return sequence.since(0)


def extended(store: TokenStore, tokens: tuple[int, ...]) -> TokenSequence:
    sequence = store.new()
    sequence.extend(tokens)
    return sequence


@given(st.data())
def test_any_changes_in_any_order_are_those_of_lists(data: st.DataObject) -> None:
    store = TokenStore(lambda _: None, max_prompt_tokens=data.draw(st.sampled_from([0, 20, 1000])))
    pairs: list[tuple[TokenSequence, list[int]]] = [(store.new(), [])]
    for number in range(data.draw(st.integers(1, 30))):
        sequence, model = pairs[data.draw(st.integers(0, len(pairs) - 1))]
        match data.draw(st.sampled_from(["extend", "extend", "branch", "cut", "prompt", "release"])):
            case "extend":
                added = [100 * number + i for i in range(data.draw(st.integers(0, 5)))]
                sequence.extend(added)
                model += added
            case "branch":
                pairs.append((sequence.branch(), model.copy()))
            case "cut":
                length = data.draw(st.integers(0, len(model)))
                sequence.cut(length)
                del model[length:]
            case "prompt":
                suffix = data.draw(st.sampled_from([(), (7,), (7, 8)]))
                assert tuple(sequence.prompt(suffix).tokens) == (*model, *suffix)
            case "release" if len(pairs) > 1:
                sequence.release()
                pairs = [pair for pair in pairs if pair[0] is not sequence]
        for known, expected in pairs:
            assert known.length == len(expected)
            assert tokens_of(known) == expected
            assert known.since(len(expected) // 2) == expected[len(expected) // 2 :]
    for sequence, _ in pairs:
        sequence.release()
    assert (store.num_tokens, store._num_prompt_tokens, len(store._recent)) == (0, 0, 0)


def test_branches_hold_what_they_share_once() -> None:
    store = TokenStore(lambda _: None)
    root = extended(store, LONG)
    branches = [root.branch() for _ in range(64)]
    assert store.num_tokens == len(LONG)
    for number, branch in enumerate(branches):
        branch.extend([number] * 10)
    assert store.num_tokens == len(LONG) + 64 * 10
    assert all(branch.since(len(LONG)) == [number] * 10 for number, branch in enumerate(branches))
    for branch in branches:
        branch.release()
    assert store.num_tokens == len(LONG)


def test_a_sequence_that_grows_and_is_cut_holds_no_more_than_it_has() -> None:
    store = TokenStore(lambda _: None)
    sequence, other = store.new(), store.new()
    sequence.extend(range(10))
    branch = sequence.branch()
    sequence.cut(4)
    branch.release()
    sequence.extend([1])
    other.extend([2])
    assert store.num_tokens == 6
    sequence.cut(0)
    assert store.num_tokens == 1


def test_equal_sequences_share_one_prompt() -> None:
    store = TokenStore(lambda _: None)
    root = extended(store, LONG)
    branch = root.branch()
    prompt = root.prompt()
    assert branch.prompt() is prompt and tuple(prompt.tokens) == LONG
    assert root.prompt((5,)) is branch.prompt((5,))
    branch.extend([5])
    assert tuple(branch.prompt().tokens) == (*LONG, 5) and root.prompt() is prompt


def test_a_prompt_does_not_change_with_its_sequence() -> None:
    store = TokenStore(lambda _: None)
    sequence = extended(store, (1, 2, 3, 4))
    before = sequence.prompt()
    sequence.cut(2)
    sequence.extend([9, 9])
    assert tuple(before.tokens) == (1, 2, 3, 4)
    assert tuple(sequence.prompt().tokens) == (1, 2, 9, 9)


def test_prompts_of_branches_take_the_hashes_of_what_they_share() -> None:
    store = TokenStore(lambda _: None)
    root = extended(store, LONG)
    prompts = []
    for number in range(3):
        branch = root.branch()
        branch.extend([number] * 40)
        prompts.append(branch.prompt())
    hashes = [prompt.hashes(b"", 16) for prompt in prompts]
    shared = root.prompt().hashes(b"", 16)
    assert not shared._hashes
    last = len(LONG) // 16 - 2
    assert hashes[0][last] == shared._hashes[last]
    shared._hashes[last - 1] = 0  # a mark: computed again it would be another number
    assert [own[last - 1] for own in hashes[1:]] == [0, 0]


def test_prompts_are_kept_up_to_a_bound_and_the_oldest_go_first() -> None:
    store = TokenStore(lambda _: None, max_prompt_tokens=25)
    sequences = [extended(store, tuple(range(10 * n, 10 * n + 10))) for n in range(3)]
    first, second = sequences[0].prompt(), sequences[1].prompt()
    assert sequences[0].prompt() is first
    sequences[2].prompt()
    assert sequences[0].prompt() is first
    assert sequences[1].prompt() is not second


def test_the_prompt_that_branches_begin_with_is_kept_while_they_come() -> None:
    store = TokenStore(lambda _: None, max_prompt_tokens=40)
    root = extended(store, tuple(range(10)))
    first, others = root.prompt(), [extended(store, (number,)) for number in range(10)]
    for number, other in enumerate(others):
        branch = root.branch()
        branch.extend([number, number])
        branch.prompt()
        other.prompt()
    assert root.prompt() is first


def test_a_path_of_many_short_branches_is_no_problem() -> None:
    store = TokenStore(lambda _: None)
    sequence, kept, expected = store.new(), [], list[int]()
    generator = random.Random(3)
    for number in range(20_000):
        kept.append(sequence)
        sequence = sequence.branch()
        sequence.extend([number])
        expected.append(number)
        if generator.random() < 0.001:
            assert tuple(sequence.prompt().tokens) == tuple(expected)
            sequence.prompt().hashes(b"", 16)[len(expected) // 16 - 1]
    assert tokens_of(sequence) == expected and store.num_tokens == 20_000
    sequence.cut(5)
    assert tokens_of(sequence) == expected[:5]
    for other in (*kept, sequence):
        other.release()
    assert store.num_tokens == 0
