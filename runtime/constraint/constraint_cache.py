"""Compiled constraints, and refusals, by what was asked for: the least recently used go first. Compiles nothing."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future

from runtime.constraint.constraint import CompiledConstraint
from runtime.constraint.spec import Part


class ConstraintCache:
    """Holds ``max_count`` futures that take ``max_size`` bytes together. Safe on any thread."""

    def __init__(self, max_count: int, max_size: int) -> None:
        self._max_count, self._max_size = max_count, max_size
        self._entries: OrderedDict[Part, tuple[Future[CompiledConstraint], int]] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def get(self, part: Part) -> Future[CompiledConstraint] | None:
        """The future for this part, which may not be done yet."""
        with self._lock:
            if part not in self._entries:
                return None
            self._entries.move_to_end(part)
            return self._entries[part][0]

    def put(self, part: Part, future: Future[CompiledConstraint], size: int) -> None:
        """Keep a future, and drop the oldest until all fit."""
        with self._lock:
            self._keep(part, future, size)

    def resize(self, part: Part, future: Future[CompiledConstraint], size: int) -> None:
        """Say what this future's constraint turned out to take, if it is still kept."""
        with self._lock:
            if part in self._entries and self._entries[part][0] is future:
                self._keep(part, future, size)

    def discard(self, part: Part, future: Future[CompiledConstraint]) -> None:
        """Forget the part, if this future is still what is kept for it."""
        with self._lock:
            if part in self._entries and self._entries[part][0] is future:
                self._drop(part)

    def _keep(self, part: Part, future: Future[CompiledConstraint], size: int) -> None:
        self._drop(part)
        self._entries[part] = (future, size)
        self._size += size
        while len(self._entries) > self._max_count or self._size > self._max_size:
            self._drop(next(iter(self._entries)))

    def _drop(self, part: Part) -> None:
        if part in self._entries:
            self._size -= self._entries.pop(part)[1]
