"""Memory shared by the models of one server: what each is granted, and who leaves when another needs the room.

Bytes and names only; who serves, and since when, is told. Knows no package and no engine.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from runtime.errors import KVBudgetError

from api.errors import NoRoomError


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeed:
    """What a model takes while it is loaded, in bytes. ``device`` says whose: ``cpu``, or a GPU's UUID.

    ``fixed_bytes`` are its weights and what else does not depend on its cache.
    """

    device: str = "cpu"
    fixed_bytes: int = 0
    cache_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.fixed_bytes + self.cache_bytes

    def explain(self) -> str:
        """The arithmetic, for a person."""
        return f"{_gib(self.total_bytes)} ({_gib(self.fixed_bytes)} weights + {_gib(self.cache_bytes)} kv cache)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A model that holds memory. ``last_used`` grows with every use; ``is_idle``: no request asks for it or runs."""

    name: str
    need: MemoryNeed
    last_used: int
    is_idle: bool


def leavers(name: str, need: MemoryNeed, holders: Collection[Holder], budgets: Mapping[str, int]) -> tuple[str, ...]:
    """Who must leave so that the model ``name`` fits beside the others: the idle ones used longest ago, in that order.

    Never more than it takes, never one that is not idle. Raises KVBudgetError when it would not fit alone, NoRoomError
    when it must wait until another is idle; both with the arithmetic.
    """
    budget = budgets[need.device]
    if need.total_bytes > budget:
        raise KVBudgetError(
            f"the model {name} needs {need.explain()}, more than the budget of {_gib(budget)} for all models; give it "
            "fewer slots or a smaller kv_cache_bytes, or raise memory_bytes"
        )
    there = [holder for holder in holders if holder.need.device == need.device]
    short = sum(holder.need.total_bytes for holder in there) + need.total_bytes - budget
    leaving: list[Holder] = []
    for holder in sorted(there, key=lambda holder: holder.last_used):
        if short > 0 and holder.is_idle:
            leaving.append(holder)
            short -= holder.need.total_bytes
    if short > 0:
        held = ", ".join(f"{holder.name} {_gib(holder.need.total_bytes)}" for holder in there if not holder.is_idle)
        raise NoRoomError(
            f"the model {name} needs {need.explain()} of the budget of {_gib(budget)}, and models that are serving "
            f"hold too much of it: {held}"
        )
    for holder in reversed(leaving):
        if short + holder.need.total_bytes <= 0:  # what another frees is enough without it
            leaving.remove(holder)
            short += holder.need.total_bytes
    return tuple(holder.name for holder in leaving)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheWish:
    """What one model asks of the memory. ``asked_bytes`` is its cache where the operator said its size, else None.

    ``least_bytes`` is a cache of one slot of full length.
    """

    fixed_bytes: int
    asked_bytes: int | None
    least_bytes: int


def cache_budgets(budget: int, wishes: Mapping[str, CacheWish]) -> dict[str, int]:
    """Bytes that each model's cache may take, by the model's name; the same whatever else is loaded.

    What was asked for is granted as it is. The others get equal parts of what all weights and those caches leave; where
    that is too little for a slot of each, the models cannot live together, and each gets what it has by itself.
    """
    rest = budget - sum(wish.fixed_bytes + (wish.asked_bytes or 0) for wish in wishes.values())
    sharing = [wish for wish in wishes.values() if wish.asked_bytes is None]
    part = max(0, rest) // max(1, len(sharing))
    together = all(wish.least_bytes <= part for wish in sharing)
    found = {}
    for name, wish in wishes.items():
        own = part if together else max(0, budget - wish.fixed_bytes)
        found[name] = own if wish.asked_bytes is None else wish.asked_bytes
    return found


def _gib(size: int) -> str:
    """A size as people read it; small ones, as in tests, in bytes."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**20 else f"{size:,} bytes"
