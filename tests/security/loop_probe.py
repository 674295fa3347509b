"""How long an event loop was not available, seen from within: the longest time between two calls of a timer."""

from __future__ import annotations

import asyncio
import threading
import time

_EVERY_S = 0.001


class LoopProbe:
    """Runs on ``loop``, whose thread is another. ``take`` returns the largest gap in seconds and begins anew."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._last = time.perf_counter()
        self._largest_s = 0.0
        self._stopped = False
        loop.call_soon_threadsafe(self._tick)

    def take(self) -> float:
        """The largest gap since the last call, the present moment included."""
        found: list[float] = []
        done = threading.Event()

        def read() -> None:
            found.append(max(self._largest_s, time.perf_counter() - self._last - _EVERY_S))
            self._largest_s = 0.0
            done.set()

        self._loop.call_soon_threadsafe(read)
        if not done.wait(60):
            raise TimeoutError("the event loop did not come back within a minute")
        return found[0]

    def stop(self) -> None:
        """End the timer."""
        self._stopped = True

    def _tick(self) -> None:
        now = time.perf_counter()
        self._largest_s = max(self._largest_s, now - self._last - _EVERY_S)
        self._last = now
        if not self._stopped:
            self._loop.call_later(_EVERY_S, self._tick)
