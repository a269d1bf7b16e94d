"""What the scheduler may name, and what a sequence has of it."""

from __future__ import annotations

from bough.common.prefix_hash import token_bytes
from bough.common.sampling import SamplingParams
from bough.executor.bases import Base, Bases
from bough.executor.sequence import Sequence


def test_a_base_has_the_tokens_of_its_parent_before_its_own() -> None:
    bases = Bases()
    bases.add(1, parent=0, tokens=[5, 900], namespace=b"salt")
    bases.add(2, parent=1, tokens=[7], namespace=b"salt")
    base = bases.find(2, b"salt")
    assert base is not None and base.packed == token_bytes([5, 900, 7])
    assert (base.num_tokens, base.largest, base.since(1)) == (3, 900, [900, 7])


def test_a_base_is_found_by_its_number_and_namespace_until_it_is_released() -> None:
    bases = Bases()
    bases.add(1, parent=0, tokens=[5], namespace=b"salt")
    base = bases.find(1, b"salt")
    assert base is not None
    assert bases.find(1, b"") is None
    assert bases.find(2, b"salt") is None
    bases.add(2, parent=1, tokens=[6], namespace=b"salt")
    assert bases.release([1, 77]) == [base]
    assert bases.find(1, b"salt") is None
    child = bases.find(2, b"salt")
    assert child is not None and child.since(0) == [5, 6], "what began with it has its tokens"
    assert bases.clear() == [child] and bases.find(2, b"salt") is None


def test_a_base_that_cannot_be_made_is_not_known() -> None:
    bases = Bases()
    bases.add(2, parent=1, tokens=[6], namespace=b"")
    bases.add(3, parent=0, tokens=[], namespace=b"")
    bases.add(4, parent=0, tokens=[6], namespace=b"salt")
    bases.add(5, parent=4, tokens=[6], namespace=b"other")
    assert [bases.find(number, b"") for number in (0, 1, 2, 3)] == [None] * 4
    assert bases.find(5, b"other") is None


def test_positions_of_a_sequence_count_from_the_beginning_of_its_base() -> None:
    base = Base(token_bytes(range(10)), b"")
    sequence = Sequence(request_id=1, base=base, tokens=[10, 11], num_prompt=11, params=SamplingParams())
    for key in (None, token_bytes([10, 11])):
        sequence.key = key
        for start in range(13):
            for end in range(start, 13):
                assert sequence.packed(start, end) == token_bytes(range(start, end))
    assert [sequence.since(start) for start in range(13)] == [list(range(start, 12)) for start in range(13)]
    assert (sequence.num_tokens, sequence.length, sequence.num_generated, sequence.num_uncomputed) == (12, 12, 1, 12)
