"""What people ask of a cache: what is in it, is it whole, and make it smaller."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from export.pipeline.cache import Cache, Stored, altered_files

_DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Damage:
    """An entry with files that are missing or have other bytes than they had."""

    stored: Stored
    files: tuple[str, ...]


def damaged_entries(cache: Cache, on_entry: Callable[[Stored], None]) -> list[Damage]:
    """Read every file of every entry; ``on_entry`` hears of each entry before it is read."""
    found = []
    for stored in cache.entries():
        on_entry(stored)
        with cache.reading(stored.entry.key):
            if files := altered_files(stored.folder, stored.entry):
                found.append(Damage(stored, tuple(files)))
    return found


@dataclass(frozen=True, slots=True)
class Pruning:
    """What goes, and what would but is in use right now; ``leftovers`` are keys that killed builds left behind."""

    gone: tuple[Stored, ...]
    in_use: tuple[Stored, ...]
    leftovers: tuple[str, ...]

    @property
    def freed_bytes(self) -> int:
        """Bytes of the entries that went."""
        return sum(stored.entry.size_bytes for stored in self.gone)


def superfluous(cache: Cache, *, older_than_days: float | None, max_bytes: int | None) -> list[Stored]:
    """Entries that no build took for so long, then those longest unused, until the rest fits into ``max_bytes``."""
    entries = list(cache.entries())
    oldest = -1.0 if older_than_days is None else time.time() - older_than_days * _DAY_SECONDS
    total = sum(stored.entry.size_bytes for stored in entries)
    chosen = []
    for stored in entries:
        if stored.last_used_unix < oldest or (max_bytes is not None and total > max_bytes):
            chosen.append(stored)
            total -= stored.entry.size_bytes
    return chosen


def prune(cache: Cache, entries: list[Stored]) -> Pruning:
    """Remove these entries and what killed builds left, but nothing that a process uses."""
    result: dict[bool, list[Stored]] = {True: [], False: []}
    for stored in entries:
        result[cache.remove(stored.entry.key)].append(stored)
    leftovers = [key for key in cache.unfinished_keys() if cache.remove_unfinished(key)]
    return Pruning(tuple(result[True]), tuple(result[False]), tuple(leftovers))
