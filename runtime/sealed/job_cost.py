"""What a job has taken of its process so far: computing time, and address space. Knows no job and no limit.

A process that ended for want of memory has none left to look at, so it is looked at while it works.
"""

from __future__ import annotations

import contextlib
import resource
from dataclasses import dataclass
from pathlib import Path

from runtime.sealed.deadline import process_clock


@dataclass(frozen=True, slots=True)
class JobCost:
    """Seconds that the process computed, and the most bytes of address space that it was seen to add (0: unknown)."""

    cpu_s: float = 0.0
    memory_bytes: int = 0


class JobMeter:
    """Begins when it is made, with the job. Looks at process ``pid``."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._clock = process_clock(pid)
        self._cost = JobCost()
        self._begin_s = 0.0
        with contextlib.suppress(OSError):  # it ended before its job came; the job learns that soon enough
            self._begin_s = self._clock()
        self._begin_bytes = address_space_bytes(pid)

    def look(self) -> JobCost:
        """What the job has cost by now; of a process that has ended, as far as that can be told."""
        try:
            cpu_s = self._clock() - self._begin_s
        except OSError:  # it is gone altogether
            cpu_s = self._cost.cpu_s
        memory_bytes = max(self._cost.memory_bytes, address_space_bytes(self._pid) - self._begin_bytes)
        self._cost = JobCost(cpu_s, memory_bytes)
        return self._cost


def address_space_bytes(pid: int | str = "self") -> int:
    """Address space of a process; 0 where there is no ``/proc``, or the process has ended."""
    try:
        return int((Path("/proc") / str(pid) / "statm").read_text("ascii").split()[0]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0
