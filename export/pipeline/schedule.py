"""Which step runs next: pure rules on names, seconds and bytes.

Of the steps that may start, the one with the longest way to the end goes first, as far as jobs and memory allow; of
several, as where nothing is known of the times, the one that takes most memory, which is a larger model's. A smaller
one may pass a larger one that does not fit yet. A step that alone needs more than the budget runs alone.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """What a step is expected to take. ``memory_bytes`` None is unknown, and counts as all there is."""

    name: str
    needs: tuple[str, ...]
    seconds: float
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class Budget:
    """What steps that run together may take."""

    jobs: int
    memory_bytes: int

    def share(self, load: Load) -> int:
        """Bytes that are set aside for a step, and that it is told it may use."""
        known = self.memory_bytes if load.memory_bytes is None else load.memory_bytes
        return min(known, self.memory_bytes)


def ways_to_the_end(loads: Sequence[Load]) -> dict[str, float]:
    """Seconds from each step's start to the end of the longest chain that waits for it. ``loads`` in graph order."""
    after: dict[str, list[str]] = {load.name: [] for load in loads}
    for load in loads:
        for name in load.needs:
            after[name].append(load.name)
    ways: dict[str, float] = {}
    for load in reversed(loads):
        ways[load.name] = load.seconds + max((ways[name] for name in after[load.name]), default=0.0)
    return ways


def next_steps(
    ready: Iterable[Load], running: Collection[Load], budget: Budget, ways: Mapping[str, float]
) -> list[Load]:
    """Which of ``ready`` to start now, beside what is ``running``."""
    taken, free = len(running), budget.memory_bytes - sum(budget.share(load) for load in running)
    chosen = []
    for load in sorted(ready, key=lambda one: (-ways[one.name], -budget.share(one), one.name)):
        if taken < budget.jobs and budget.share(load) <= free:
            chosen.append(load)
            taken, free = taken + 1, free - budget.share(load)
    return chosen


@dataclass(frozen=True, slots=True)
class Forecast:
    """When everything is done if each step takes what is expected, and the most memory set aside until then."""

    seconds: float
    peak_bytes: int


def forecast(loads: Sequence[Load], budget: Budget) -> Forecast:
    """Play the rules through. ``loads`` in graph order, needs that are not among them are done."""
    names = {load.name for load in loads}
    loads = [Load(one.name, tuple(n for n in one.needs if n in names), one.seconds, one.memory_bytes) for one in loads]
    ways, waiting = ways_to_the_end(loads), {load.name: load for load in loads}
    running: list[tuple[float, str]] = []
    active: dict[str, Load] = {}
    done: set[str] = set()
    now, peak = 0.0, 0
    while waiting or running:
        ready = [load for load in waiting.values() if done.issuperset(load.needs)]
        for load in next_steps(ready, active.values(), budget, ways):
            active[load.name] = waiting.pop(load.name)
            heapq.heappush(running, (now + load.seconds, load.name))
        peak = max(peak, sum(budget.share(load) for load in active.values()))
        now, name = heapq.heappop(running)
        del active[name]
        done.add(name)
    return Forecast(now, peak)
