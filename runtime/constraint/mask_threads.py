"""The few threads that compute masks, so that a costly one delays neither the engine's thread nor the event loop.

The library works without the interpreter's lock. Knows no matcher: a job is a call that keeps its own result.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue


class MaskThreads:
    """Runs jobs in the order of their arrival. Jobs never raise. Safe on any thread."""

    def __init__(self, count: int) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._run, name=f"mask-{at}", daemon=True) for at in range(count)]
        for thread in self._threads:
            thread.start()

    def put(self, job: Callable[[], None]) -> None:
        """Have ``job`` run; returns at once."""
        self._jobs.put(job)

    def close(self) -> None:
        """End the threads after the jobs that were put before."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
