"""Cores that several pieces of work share, in simulated time. Owns how fast each goes on; knows no fleet.

Processor sharing: while the threads that want a core are more than the cores, every thread gets the same part of one.
So all pieces go on at one speed, and a piece ends when the host's own clock, which runs at that speed, has gone as far
as the piece is long.
"""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass, field
from typing import Generic, TypeVar

What = TypeVar("What")


@dataclass(slots=True)
class SharedHost(Generic[What]):
    """``cores`` may be a fraction: what others always take is taken off. ``next_s`` is when the next piece ends."""

    cores: float
    _clock_s: float = 0.0  # seconds of work done of a piece that was there from the start
    _at_s: float = 0.0
    _threads: int = 0
    _pieces: list[tuple[float, int, int, int, What]] = field(default_factory=list)  # end, order, threads, owner, what
    _order: itertools.count[int] = field(default_factory=itertools.count)

    @property
    def next_s(self) -> float:
        """When the next piece ends if nothing is added; infinite without any."""
        if not self._pieces:
            return math.inf
        return self._at_s + max(self._pieces[0][0] - self._clock_s, 0.0) / self._speed

    def add(self, now_s: float, work_s: float, threads: int, owner: int, what: What) -> None:
        """Begin a piece that takes ``work_s`` seconds where nobody else is, on ``threads`` cores all the while."""
        self._pass(now_s)
        heapq.heappush(self._pieces, (self._clock_s + work_s, next(self._order), threads, owner, what))
        self._threads += threads

    def end(self) -> tuple[float, int, What]:
        """End the next piece, at ``next_s``: that moment, the piece's owner, and what it was."""
        self._pass(self.next_s)
        end_s, _, threads, owner, what = heapq.heappop(self._pieces)
        self._clock_s = end_s  # what was passed may lack the last bit of it
        self._threads -= threads
        return self._at_s, owner, what

    def drop(self, now_s: float, owner: int) -> None:
        """Give up every piece of an owner."""
        self._pass(now_s)
        self._pieces = [piece for piece in self._pieces if piece[3] != owner]
        heapq.heapify(self._pieces)
        self._threads = sum(piece[2] for piece in self._pieces)

    @property
    def _speed(self) -> float:
        return min(1.0, self.cores / self._threads) if self._threads else 1.0

    def _pass(self, now_s: float) -> None:
        self._clock_s += (now_s - self._at_s) * self._speed
        self._at_s = now_s
