"""How a request gets its replica: by affinity, in turn, or by load. Affinity is the fleet's own rule and memory.

Loads of a thousand replicas are looked at once per request, so they are kept in an array. Knows no engine.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

import numpy as np
from fleet.routing.affinity import Affinity, returns_home
from numpy.typing import NDArray

_MOST_HELD = 1 << 40
_DOWN = 1 << 20  # the load of a replica that is not up: more than any has


class PolicyName(StrEnum):
    """The policies that are compared."""

    AFFINITY = "affinity"
    LEAST_LOADED = "least-loaded"
    ROUND_ROBIN = "round-robin"


class Policy(Protocol):
    """Chooses among the replicas that are up."""

    def choose(self, conversation: int, loads: NDArray[np.int64], up: NDArray[np.bool_]) -> int:
        """The number of the replica for a conversation's next request. ``loads`` int64 [replicas] in requests."""
        ...

    def lost(self, replica: int) -> None:
        """A replica is gone, and its cache."""
        ...


class RoundRobin:
    """One after another, whoever asks."""

    def __init__(self) -> None:
        self._next = 0

    def choose(self, conversation: int, loads: NDArray[np.int64], up: NDArray[np.bool_]) -> int:
        """The next one that is up."""
        while not up[self._next % len(up)]:
            self._next += 1
        chosen = self._next % len(up)
        self._next += 1
        return chosen

    def lost(self, replica: int) -> None:
        """Nothing is remembered."""


class LeastLoaded:
    """The one with the fewest requests; among equals, in turn."""

    def __init__(self) -> None:
        self._turn = 0

    def choose(self, conversation: int, loads: NDArray[np.int64], up: NDArray[np.bool_]) -> int:
        """The least loaded that is up."""
        seen = np.where(up, loads, _DOWN)
        equals = np.flatnonzero(seen == seen.min())
        self._turn += 1
        return int(equals[self._turn % len(equals)])

    def lost(self, replica: int) -> None:
        """Nothing is remembered."""


class ByAffinity:
    """``fleet.routing.affinity``'s rule, with one mark per conversation. ``busy_at`` as there."""

    def __init__(self, num_replicas: int, busy_at: int) -> None:
        self._affinity: Affinity[int] = Affinity(most_noted=64 * num_replicas * busy_at)
        self._held = np.zeros(num_replicas, np.int64)
        self._busy_at = busy_at

    def choose(self, conversation: int, loads: NDArray[np.int64], up: NDArray[np.bool_]) -> int:
        """Its holder while that is up and has room; else the least loaded, and of those the one that holds least."""
        mark = conversation.to_bytes(8, "little")
        seen = np.where(up, loads, _DOWN)
        holder = self._affinity.holder((mark,))
        if holder is not None and up[holder] and returns_home(int(loads[holder]), int(seen.min()), self._busy_at):
            chosen = holder
        else:
            # Loads first, then what is held: as one number, so that a thousand replicas are looked at in one pass.
            chosen = int(np.argmin(seen * _MOST_HELD + self._held))
            if holder is not None:
                self._held[holder] -= 1
        self._affinity.note((mark,), chosen)
        self._held[chosen] = self._affinity.num_held(chosen)
        return chosen

    def lost(self, replica: int) -> None:
        """Its conversations belong to nobody."""
        self._affinity.forget(replica)
        self._held[replica] = 0


def new_policy(name: PolicyName, num_replicas: int, busy_at: int) -> Policy:
    """A policy that has seen nothing yet."""
    if name is PolicyName.AFFINITY:
        return ByAffinity(num_replicas, busy_at)
    return RoundRobin() if name is PolicyName.ROUND_ROBIN else LeastLoaded()
