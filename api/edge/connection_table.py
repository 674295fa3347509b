"""Which connections are open, and which of them make room for a newcomer. Knows no socket and no byte.

At the cap the connection that has been waiting longest for its client gives way: one that was answered and is kept
open, or one whose request is still on its way. A crowd of silent connections therefore shuts nobody out. When all are
being answered, newcomers get one of a few reserved places, which serve probes and metrics only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from api.edge.limits import ConnectionLimits
from api.observe.logs import RareLog


class Evictable(Protocol):
    """What the table needs of a connection."""

    def evict(self) -> None:
        """Close now; the client was slow, not wrong."""


class ConnectionTable:
    """The connections of one listener. ``note`` counts a reason each time a connection is cut short."""

    def __init__(self, limits: ConnectionLimits, note: Callable[[str], None]) -> None:
        self._limits = limits
        self.note = note
        self.log = RareLog(logging.getLogger("powertrain.connections"))
        self._open: set[Evictable] = set()
        self._reserved: dict[Evictable, None] = {}
        self._waiting: dict[Evictable, None] = {}  # the longest waiting first; part of _open

    def __len__(self) -> int:
        return len(self._open) + len(self._reserved)

    def admit(self, *, exhausted: bool = False) -> bool:
        """True when the next connection may ask for anything, False when for probes only. Makes the room it needs.

        ``exhausted`` says that the process has no descriptor left, so that its number does not matter.
        """
        if not exhausted and len(self._open) < self._limits.max_connections:
            return True
        if self._limits.max_connections and not exhausted:
            self.log.warning("all %d connections are taken (--max-connections)", self._limits.max_connections)
        if self._evict_oldest(self._waiting):
            return True
        if exhausted or len(self._reserved) >= self._limits.num_reserved:
            self._evict_oldest(self._reserved)
        return False

    def _evict_oldest(self, among: dict[Evictable, None]) -> bool:
        oldest = next(iter(among), None)
        if oldest is None:
            return False
        self.lost(oldest)
        self.note("made_room")
        oldest.evict()
        return True

    def opened(self, connection: Evictable, *, probes_only: bool) -> None:
        """Count a new connection, which waits for its first request."""
        if probes_only:
            self._reserved[connection] = None
        else:
            self._open.add(connection)
            self._waiting[connection] = None

    def waits(self, connection: Evictable) -> None:
        """Note that the next move is the client's, from now on."""
        if connection in self._open:
            self._waiting.pop(connection, None)
            self._waiting[connection] = None

    def works(self, connection: Evictable) -> None:
        """Note that a whole request has arrived: this connection is not given up for another."""
        self._waiting.pop(connection, None)

    def lost(self, connection: Evictable) -> None:
        """Forget a connection; a second time changes nothing."""
        self._open.discard(connection)
        self._reserved.pop(connection, None)
        self._waiting.pop(connection, None)
