"""Ends what outlives the cluster that started it. Knows processes, and nothing of Ray's.

Ray's agents end when they see that their raylet has. One that still starts while its raylet is ended, because a signal
interrupts the start of a cluster, does not see it, and would stay on the machine for good. Linux alone: elsewhere there
is no such list of processes, and this does nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_GRACE_S = 2.0
_GIVE_UP_S = 5.0  # nothing ends a process that waits for a broken device
_PAUSE_S = 0.05


@contextmanager
def nothing_left(grace_s: float = _GRACE_S) -> Iterator[None]:
    """What begins below this process in the block, and has not ended ``grace_s`` seconds after it, is killed."""
    if sys.platform != "linux":
        yield
        return
    before = _children()
    _adopt_orphans(True)
    try:
        yield
    finally:
        until = time.monotonic() + grace_s
        while (left := _children() - before) and (beyond_s := time.monotonic() - until) < _GIVE_UP_S:
            if beyond_s >= 0:
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(_PAUSE_S)
        _adopt_orphans(False)


def _adopt_orphans(wanted: bool) -> None:
    """Whether processes below this one become its children when their parents end, instead of init's."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0)


def _children() -> set[int]:
    """This process's children that run. Those that have ended are forgotten: nobody else waits for them."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile, or somebody of this process has waited for it
            pid, rest = status.read_text(encoding="utf-8", errors="replace").split(" ", 1)
            state, parent = rest.rpartition(")")[2].split()[:2]
            if int(parent) != os.getpid():
                continue
            if state == "Z":
                os.waitpid(int(pid), os.WNOHANG)
            else:
                found.add(int(pid))
    return found
