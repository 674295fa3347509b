"""What outlives a cluster is ended: real processes, of which one loses its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys

import pytest

from tests.fleet.ray_double import OnDoubles

PR_GET_CHILD_SUBREAPER = 37
_ORPHAN = "import subprocess, sys; print(subprocess.Popen(['sleep', '60'], stdout=2).pid, flush=True); sys.exit()"


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has the list of processes that this needs")
def test_what_loses_its_parent_is_ended_and_what_was_there_before_is_not(on_doubles: OnDoubles) -> None:
    with subprocess.Popen(["sleep", "60"]) as mine:
        with on_doubles.left_over.nothing_left(grace_s=0.0):
            started = subprocess.run([sys.executable, "-S", "-c", _ORPHAN], stdout=subprocess.PIPE, check=True)
            orphan = int(started.stdout)
            assert lives(orphan)
        assert not lives(orphan)  # no zombie either
        assert lives(mine.pid)
        adopts = ctypes.c_int(-1)
        ctypes.CDLL(None).prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(adopts), 0, 0, 0)
        assert adopts.value == 0  # orphans are init's again
        mine.send_signal(signal.SIGTERM)
