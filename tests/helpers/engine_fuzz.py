"""The same random operations on two engines that must end with the same tokens, and with no page lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from bough.common.prefix_hash import token_bytes
from bough.executor.bases import Base
from bough.executor.engine import Engine
from bough.executor.orders import Admission, Orders
from tests.executor.cache.tree_check import check_tree, tree_pages
from tests.helpers.engines import EngineDriver, admission, random_tokens

SAMPLINGS: tuple[dict[str, Any], ...] = (
    {},
    {},
    {},
    {"temperature": 0.8},
    {"temperature": 1.0, "top_k": 20},
    {"temperature": 0.9, "top_p": 0.9, "frequency_penalty": 0.4},
    {"repetition_penalty": 1.3, "logit_bias": ((9, 2.0), (40, -50.0))},
)
_GREEDY_TIE, _DRAWN_TIE = 1e-4, 0.02
"""Biases that tip a choice. Greedy: logits are rounded at 1e-6 and a wrong key or value changes them by much more.

Drawn: the number drawn lies on the border of the two tokens in the cumulative distribution, give or take the sum of the
roundings of hundreds of probabilities, that is up to 1e-6, while the bias of a token moves the border by that share of
the token's own probability; tokens that are not neighbours stay out of its reach.
"""


@dataclass(slots=True)
class Operations:
    """Steps and orders, in an order that does not depend on what comes of them."""

    items: list[list[Admission] | int | None]
    """Requests to admit, one to cancel, or None for a step."""
    requests: dict[int, Admission] = field(default_factory=dict)
    cancelled: set[int] = field(default_factory=set)


def random_operations(seed: int, num_operations: int, *, num_rows: int) -> Operations:
    """Operations that keep about `num_rows` requests running: single ones, siblings, prompts that begin alike."""
    random = Random(seed)
    stems = [random_tokens(120, 1000 + number) for number in range(5)]
    result = Operations([])
    recent: list[int] = []
    for _ in range(num_operations):
        kind = random.random()
        if kind < 0.04:
            admitted = _siblings(random, stems, first=len(result.requests) + 1)
            result.requests.update({entry.request: entry for entry in admitted})
            recent = (recent + [entry.request for entry in admitted])[-2 * num_rows :]
            result.items.append(admitted)
        elif kind < 0.055 and recent:
            request = recent.pop(random.randrange(len(recent)))
            result.cancelled.add(request)
            result.items.append(request)
        else:
            result.items.append(None)
    return result


def _siblings(random: Random, stems: list[list[int]], *, first: int) -> list[Admission]:
    shared = random.choice(stems)[: random.choice((0, 0, 15, 16, 40, 64, 120))]
    own = random_tokens(random.randint(0 if shared else 1, 50), random.randrange(1 << 30))
    number = random.choice((1, 1, 1, 2, 5))
    stop = tuple(random_tokens(6, random.randrange(1 << 30))) if random.random() < 0.2 else ()
    return [
        admission(
            first + index,
            shared + own,
            order=random.randrange(50),
            **{
                "seed": random.randrange(1 << 30),
                "max_tokens": random.choice((1, 2, 17, 40, 150, 160, 170)),
                "stop_token_ids": stop,
                **random.choice(SAMPLINGS),
            },
        )
        for index in range(number)
    ]


class RandomBases:
    """Has prompts of one engine name what they begin with, sometimes, and releases that again, sometimes."""

    def __init__(self, driver: EngineDriver) -> None:
        self._driver = driver
        self._random = Random(0)
        self._bases: dict[tuple[int, ...], Base] = {}

    def named(self, entry: Admission) -> Admission:
        """The same request, perhaps by a base."""
        length = min(self._random.choice((0, 15, 16, 17, 40, 64, 120)), len(entry.prompt) - 1)
        if not length:
            return entry
        tokens = tuple(entry.prompt[:length])
        base = self._bases.setdefault(tokens, Base(token_bytes(tokens), entry.cache_namespace))
        return replace(entry, base=base, prompt=entry.prompt[length:])

    def release(self, *, everything: bool = False) -> None:
        """Release one of them, or all."""
        while self._bases:
            released = self._bases.pop(self._random.choice(list(self._bases)))
            self._driver.apply(Orders(released_bases=[released]))
            if not everything:
                return


def drive(engine: Engine, operations: Operations, *, by_bases: bool = False) -> EngineDriver:
    """Apply operations, run to the end, and check that all pages and rows have come back.

    Args:
        engine: fresh.
        operations: what to do.
        by_bases: many prompts name a base instead of their first tokens.
    """
    driver = EngineDriver(engine)
    bases = RandomBases(driver)
    for item in operations.items:
        if item is None:
            driver.step()
        elif isinstance(item, int):
            driver.cancel(item)
            bases.release()
        elif by_bases:
            driver.admit(*map(bases.named, item))
        else:
            driver.admit(*item)
    driver.run()
    check_nothing_is_lost(engine)
    bases.release(everything=True)
    check_nothing_is_lost(engine)
    return driver


def check_nothing_is_lost(engine: Engine) -> None:
    """Asserts that an idle engine holds no row, and each page once, as free or in the cache."""
    gauges = engine.gauges()
    assert (gauges.running, gauges.waiting, gauges.pages_used) == (0, 0, 0)
    assert gauges.pages_free + gauges.pages_cached == engine.capacity.num_pages
    check_tree(engine._tree, [])
    owned = tree_pages(engine._tree) + engine._composer._pool._free
    assert sorted(owned) == list(range(engine.capacity.num_pages))
    assert engine._composer.table.num_free == engine.capacity.max_rows


def compare(
    operations: Operations, driver: EngineDriver, expected: EngineDriver, alone: Callable[[], Engine]
) -> list[int]:
    """Assert that both engines gave the same tokens.

    Args:
        operations: that both were driven by.
        driver: of the engine under test.
        expected: of the one that is right.
        alone: makes a right engine, to look closer at a request.

    Returns:
        Requests that took another way where two tokens were tied to within the rounding of float32.
    """
    ties = []
    for request, entry in operations.requests.items():
        one, other = driver.tokens.get(request, []), expected.tokens.get(request, [])
        length = min(len(one), len(other))
        differing = next((index for index in range(length) if one[index] != other[index]), None)
        if differing is not None:
            tied = _is_tie(alone(), entry, other[:differing], wanted=one[differing], instead_of=other[differing])
            assert tied, f"request {request}, token {differing}: {one[differing]}, expected {other[differing]}"
            ties.append(request)
        elif request not in operations.cancelled:
            assert one == other, f"request {request}: {len(one)} tokens, expected {len(other)}"
            assert driver.finish[request] == expected.finish[request]
    assert driver.failures == expected.failures
    return ties


def _is_tie(engine: Engine, entry: Admission, produced: list[int], *, wanted: int, instead_of: int) -> bool:
    """Whether a bias as small as rounding makes the right engine choose the other token."""
    bias, tie = dict(entry.sampling.logit_bias), _DRAWN_TIE if entry.sampling.temperature else _GREEDY_TIE
    bias[wanted] = bias.get(wanted, 0.0) + tie
    bias[instead_of] = bias.get(instead_of, 0.0) - tie
    driver = EngineDriver(engine)
    fields = {name: getattr(entry.sampling, name) for name in entry.sampling.__dataclass_fields__}
    changed = {**fields, "logit_bias": tuple(bias.items()), "max_tokens": len(produced) + 1}
    driver.admit(admission(1, entry.prompt, produced=produced, **changed))
    driver.run()
    return driver.tokens[1] == [wanted]
