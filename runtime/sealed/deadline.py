"""When a job must be done: by the clock on the wall, and by what its process has computed. Knows no job."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable


class Deadline:
    """Begins when it is made. ``clock`` tells the seconds that the process has computed so far."""

    def __init__(self, wall_s: float, cpu_s: float | None, clock: Callable[[], float]) -> None:
        self._end = time.monotonic() + wall_s
        self._clock = clock
        self._cpu_end = None if cpu_s is None else clock() + cpu_s

    def wall_left_s(self) -> float:
        """Seconds until the end by the clock on the wall. Raises TimeoutError when it is over."""
        left_s = self._end - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s

    def left_s(self) -> float:
        """Seconds for which it is surely not over yet: ask again after them. Raises TimeoutError when it is."""
        left_s = self.wall_left_s()
        if self._cpu_end is None:
            return left_s
        cpu_left_s = self._cpu_end - self._clock()
        if cpu_left_s <= 0:
            raise TimeoutError
        return min(left_s, cpu_left_s)


def process_clock(pid: int) -> Callable[[], float]:
    """What a process has computed, in seconds, all its threads together (``man 3 clock_getcpuclockid``).

    The clock on the wall where the platform has no such clock.
    """
    clock_id = ctypes.c_int()
    find = getattr(ctypes.CDLL(None), "clock_getcpuclockid", None)
    if find is None or find(pid, ctypes.byref(clock_id)) != 0:
        return time.monotonic
    return lambda: time.clock_gettime(clock_id.value)
