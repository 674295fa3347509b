"""Which replica holds which conversation, and when a conversation should stay with it all the same.

The rule, in order:
1. A request whose longest known mark lies with a replica returns to it: its cache holds what came before.
2. Unless that replica is busy (as many requests as it has slots, or more) and another has fewer: waiting for a slot
   costs more than computing a prompt anew. The conversation moves, and its marks with it.
3. Whoever belongs nowhere goes to the replica with the fewest requests; of those, to the one that holds the fewest
   marks, so that conversations spread also while nobody has anything to do.

Knows replicas by any hashable name and loads as numbers. Used by the router, and by the simulation of it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from typing import Generic, TypeVar

Replica = TypeVar("Replica", bound=Hashable)

MOST_NOTED = 200_000
"""Marks that are remembered, the most recent ones: some 40 MB."""


class Affinity(Generic[Replica]):
    """Which replica was given which mark last. What is used least recently is forgotten beyond ``most_noted``."""

    def __init__(self, most_noted: int = MOST_NOTED) -> None:
        self._most = most_noted
        self._holders: OrderedDict[bytes, Replica] = OrderedDict()
        self._num_held: Counter[Replica] = Counter()

    def num_held(self, replica: Replica) -> int:
        """Marks that lie with ``replica``."""
        return self._num_held[replica]

    def holder(self, marks: Sequence[bytes]) -> Replica | None:
        """Who was given the longest known beginning of a request; None when no beginning is known."""
        for mark in reversed(marks):
            found = self._holders.get(mark)
            if found is not None:
                self._holders.move_to_end(mark)
                return found
        return None

    def note(self, marks: Sequence[bytes], replica: Replica) -> None:
        """A request with these marks went to ``replica``."""
        for mark in marks:
            before = self._holders.pop(mark, None)
            if before is not None:
                self._num_held[before] -= 1
            self._holders[mark] = replica
            self._num_held[replica] += 1
        while len(self._holders) > self._most:
            _, oldest = self._holders.popitem(last=False)
            self._num_held[oldest] -= 1

    def forget(self, replica: Replica) -> None:
        """``replica`` is gone, and its cache with it."""
        if self._num_held.pop(replica, 0):
            self._holders = OrderedDict(item for item in self._holders.items() if item[1] != replica)


def returns_home(holder_load: int, least_load: int, busy_at: int) -> bool:
    """Rules 1 and 2: whether a conversation goes back to who holds it, given the loads in requests."""
    return holder_load < busy_at or holder_load <= least_load


def choose(
    affinity: Affinity[Replica], marks: Sequence[bytes], loads: Mapping[Replica, int], busy_at: int
) -> Replica | None:
    """The replica among ``loads`` that a request should have; None when there is none."""
    if not loads:
        return None
    least = min(loads.values())
    holder = affinity.holder(marks)
    if holder is not None and holder in loads and returns_home(loads[holder], least, busy_at):
        return holder
    return min((replica for replica, load in loads.items() if load == least), key=affinity.num_held)
