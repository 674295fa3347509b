"""Who may work on a large text next: few at once, small before large, nobody forever.

Parsing, templates and tokenization of large requests run off the event loop, and only so many at a time that the
model keeps its cores. A turn belongs to its work, not to its client: work that waits is dropped when its client
leaves, work that runs keeps its turn to its end, because a thread cannot be stopped. Runs on the event loop's thread;
knows nothing of what the work is.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from runtime.errors import Overloaded

INLINE_BYTES = 4096
"""Work on a text of at most this size is cheaper than a change of threads and may run on the event loop."""
LARGE_BYTES = 64 * 1024
"""Larger work leaves one place to the others."""
NUM_PLACES = 2
"""Works on texts at a time."""
_S_PER_BYTE = 2e-6  # about what tokenization takes; only the order of turns depends on it

Result = TypeVar("Result")


class Turns:
    """Places for work on texts. ``max_waiting_bytes`` bounds large work that waits; more is refused."""

    def __init__(self, max_waiting_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_waiting_bytes = max_waiting_bytes
        self._clock = clock
        self._running = 0
        self._running_large = 0
        self._waiting_bytes = 0
        self._order = 0
        self._waiting: list[tuple[float, int, bool, asyncio.Future[None]]] = []

    @property
    def num_busy(self) -> int:
        """Works that run or wait."""
        return self._running + sum(not place.done() for *_, place in self._waiting)

    async def take(self, size_bytes: int, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """What ``work`` returns, run when its turn has come. Raises Overloaded at once when too much waits.

        Cancelling the call drops work that waits, and leaves running work to itself.
        """
        large = size_bytes > LARGE_BYTES
        await self._enter(size_bytes, large)
        task = asyncio.ensure_future(work())
        task.add_done_callback(lambda done: self._leave(done, large))
        return await asyncio.shield(task)

    async def _enter(self, size_bytes: int, large: bool) -> None:
        if large and self._waiting_bytes and self._waiting_bytes + size_bytes > self._max_waiting_bytes:
            raise Overloaded(f"{self._waiting_bytes} bytes of large requests wait to be read; try again later")
        # As if everyone got one share of a common speed: a newcomer overtakes whoever has more left than it.
        self._order += 1
        place = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (self._clock() + size_bytes * _S_PER_BYTE, self._order, large, place))
        counted = size_bytes if large else 0
        self._waiting_bytes += counted
        self._admit()
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():  # the turn had come already
                self._free(large)
            raise
        finally:
            self._waiting_bytes -= counted

    def _admit(self) -> None:
        held_back = []
        while self._waiting and self._running < NUM_PLACES:
            entry = heapq.heappop(self._waiting)
            _, _, large, place = entry
            if place.done():  # its client left
                continue
            if large and self._running_large == NUM_PLACES - 1:
                held_back.append(entry)
                continue
            self._running += 1
            self._running_large += large
            place.set_result(None)
        for entry in held_back:
            heapq.heappush(self._waiting, entry)

    def _leave(self, task: asyncio.Task[Any], large: bool) -> None:
        if not task.cancelled():
            task.exception()  # seen, also when the client left before
        self._free(large)

    def _free(self, large: bool) -> None:
        self._running -= 1
        self._running_large -= large
        self._admit()


async def off_loop(size_bytes: int, work: Callable[[], Result]) -> Result:
    """What ``work`` returns, on one of the event loop's threads unless the text is small. Call it within a turn."""
    return work() if size_bytes <= INLINE_BYTES else await asyncio.to_thread(work)
