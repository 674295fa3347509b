"""The few threads that compute masks, so that a costly one delays neither the engine's thread nor the event loop.

The library works without the interpreter's lock, on cores that the model's arithmetic wants too, and each thread that
wakes up stops some of it: so jobs that come together are one thread's, and another one wakes up where that one is kept.
Knows no matcher: a job is a call that keeps its own result.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

from runtime.constraint import limits

_SHARE = 4
"""Jobs that wait for each thread that is called: to wake one up costs as much as a cheap job."""


class MaskThreads:
    """Runs jobs in the order of their arrival. Jobs never raise. Safe on any thread."""

    def __init__(self, count: int) -> None:
        self._jobs: deque[Callable[[], None]] = deque()
        self._calls: SimpleQueue[bool] = SimpleQueue()  # each wakes up a thread: for work, or to end
        self._lock = threading.Lock()
        self._num_idle = count  # threads asleep that no call is for
        self._moved_s = -math.inf  # when a thread was last called, or took a job
        self._threads = [threading.Thread(target=self._run, name=f"mask-{at}", daemon=True) for at in range(count)]
        for thread in self._threads:
            thread.start()

    def put(self, job: Callable[[], None]) -> None:
        """Have ``job`` run; returns at once. The few jobs that wait already have a thread on its way to them."""
        with self._lock:
            self._jobs.append(job)
            if len(self._jobs) % _SHARE == 1:
                self._call()

    def help(self) -> bool:
        """Wake up a further thread for the jobs that wait; whether their turn comes soon, as one came a moment ago.

        False where every thread is kept by a costly job.
        """
        with self._lock:
            if self._jobs:
                self._call()
            return time.monotonic() - self._moved_s < limits.BEHIND_WAIT_S

    def close(self) -> None:
        """End the threads after the jobs that were put before."""
        for _ in self._threads:
            self._calls.put(False)
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        if self._num_idle:
            self._num_idle -= 1
            self._moved_s = time.monotonic()
            self._calls.put(True)

    def _run(self) -> None:
        while self._calls.get():
            while (job := self._next()) is not None:
                job()

    def _next(self) -> Callable[[], None] | None:
        with self._lock:
            if self._jobs:
                self._moved_s = time.monotonic()
                return self._jobs.popleft()
            self._num_idle += 1
            return None
