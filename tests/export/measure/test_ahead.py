"""Items made one ahead: in order, two at a time, none kept, and what making one raises."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator

import pytest

from export.measure.ahead import halves, one_ahead


class Logits:
    def __init__(self, window: int) -> None:
        self.window = window


def test_the_next_is_made_while_one_is_looked_at() -> None:
    made = [threading.Event() for _ in range(4)]

    def items() -> Iterator[int]:
        for index, event in enumerate(made):
            event.set()
            yield index

    for item in one_ahead(items()):
        assert made[min(item + 1, 3)].wait(10)
        assert not any(event.is_set() for event in made[item + 2 :])


def test_what_making_one_raises_comes_in_its_turn() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    found = one_ahead(items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="broken"):
        next(found)


def test_two_pairs_exist_at_a_time() -> None:
    alive = weakref.WeakSet[Logits]()
    most = []

    def pairs() -> Iterator[tuple[Logits, Logits]]:
        for index in range(6):
            pair = Logits(index), Logits(-index)
            alive.update(pair)
            most.append(len(alive))
            yield pair
            del pair

    first, second = halves(one_ahead(pairs()))
    for index in range(6):
        expected, found = next(first), next(second)
        assert (expected.window, found.window) == (index, -index)
    assert next(first, None) is next(second, None) is None
    assert max(most) <= 4
