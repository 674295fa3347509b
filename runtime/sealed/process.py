"""The server's side of a sealed process: started when needed, killed at a job's deadline, started again.

Owns the process and every way in which it can fail. Knows no kind of work, no queue and no HTTP.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import socket
import subprocess
import sys
import weakref
from pathlib import Path

import msgspec

from runtime.errors import ProcessUnavailable
from runtime.sealed.deadline import Deadline, process_clock
from runtime.sealed.frame import HEADER_BYTES, MAX_FRAME_BYTES, Hello, body_bytes, framed
from runtime.sealed.job_cost import JobCost, JobMeter

_LOG = logging.getLogger("powertrain.sealed")
_START_S = 30  # an interpreter and its imports take a tenth of a second, on a machine with nothing else to do
_LOOK_S = 0.02
"""How often a process at work is looked at: one that ends for want of memory leaves nothing to look at."""
_END_S = 1.0  # between a process's last word and its end
_ATTEMPTS = 2
"""A process may be ended from outside, by a person or for want of memory; that costs no job. What ends two is a job."""
_FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}
"""Ends that no sealed process can give itself: it may send no signal, and its limits and its filter have others."""
_REASONS = {
    errno.EAGAIN: "no more processes are allowed: see ulimit -u, or pids.max of its control group",
    errno.ENOMEM: "the machine, or what is allowed of it, has no memory left",
    errno.EMFILE: "this process has no file descriptor left: see ulimit -n",
}
_NO_ENVIRONMENT: dict[str, str] = {}
_ROOT = Path(__file__).parents[2]
# The modules are found where this process finds them; an empty environment and no site hooks are all it starts with.
_BOOT = (
    "import sys; from importlib import import_module; sys.path[:] = sys.argv[3:]; "
    "import_module(sys.argv[1]).main(int(sys.argv[2]))"
)


class SealedProcess:
    """One process that answers one job after another. Used by one thread at a time.

    ``module``'s ``main(parent_pid)`` runs inside it, by way of ``serving.serve``; ``setup`` is the first frame that it
    gets. It starts with the first job, and again after ``end`` or a failure. ``work`` names what it does, for the log.
    ``last_cost`` is what the last job that failed had taken by then.
    """

    def __init__(self, module: str, setup: bytes, *, work: str) -> None:
        self._module, self._setup, self._work = module, setup, work
        self._children: list[_Child] = []  # none or one; shared with the finalizer
        self.last_cost = JobCost()
        weakref.finalize(self, _end_all, self._children)

    def exchange(self, job: bytes, deadline_s: float, *, cpu_limit_s: float | None = None) -> bytes:
        """One job's answer. Raises TimeoutError at a limit, EOFError where the job ended the process, and then a second
        one: then another one is started at once. ``deadline_s`` is by the clock on the wall, ``cpu_limit_s`` what the
        process itself may compute; a second attempt has as much.

        Raises ProcessUnavailable where none can be started, or where somebody ended both.
        """
        frame = framed(job)
        ended_by: signal.Signals | None = None
        for _ in range(_ATTEMPTS):
            child = self._started_child()
            meter = JobMeter(child.pid)
            try:
                return child.exchange(frame, child.deadline(deadline_s, cpu_limit_s), meter)
            except TimeoutError:
                self.last_cost = meter.look()
                self._replace("took too long")
                raise
            except (OSError, EOFError):
                self.last_cost = meter.look()
                ended_by = child.ended_by()
                self._replace("ended" if ended_by is None else f"was ended by {ended_by.name}")
        if ended_by is not None:
            raise ProcessUnavailable(f"the process for {self._work} was ended from outside, twice; try again")
        raise EOFError

    def start(self) -> None:
        """Start the process if there is none; does not wait for it. Raises ProcessUnavailable where none can be."""
        if self._children and not self._children[0].is_alive:
            self.end()  # killed between two jobs, by a person or for want of memory
        if not self._children:
            try:
                self._children.append(_Child(self._module, self._setup, self._work))
            except OSError as error:
                why = _REASONS.get(error.errno or 0, "")
                raise self._unavailable(f"{error.strerror}{why and f' ({why})'}") from error

    def end(self) -> None:
        """Kill the process, if there is one."""
        _end_all(self._children)

    @property
    def pid(self) -> int | None:
        """The process's id, or None while there is none."""
        return self._children[0].pid if self._children else None

    def _started_child(self) -> _Child:
        self.start()
        try:
            self._children[0].wait_started()
        except (OSError, EOFError, msgspec.MsgspecError) as error:
            status = self._children[0].status()
            self.end()
            raise self._unavailable(status or f"{type(error).__name__} before its first answer") from error
        return self._children[0]

    def _replace(self, how: str) -> None:
        """End what is left of the process and start another one, if one can be; the next job tries again."""
        _LOG.warning("the process for %s %s amid a job; a new one is started", self._work, how)
        self.end()
        with contextlib.suppress(ProcessUnavailable):
            self.start()

    def _unavailable(self, why: str) -> ProcessUnavailable:
        """What a client is told; the operator, who can change it, is told ``why``."""
        _LOG.error("no process for %s could be started, its requests get 503: %s", self._work, why)
        return ProcessUnavailable(f"the server cannot start its process for {self._work} at the moment; try again")


class _Child:
    """One process from its start to its end."""

    def __init__(self, module: str, setup: bytes, work: str) -> None:
        self._channel, theirs = socket.socketpair()
        self._setup, self._work = setup, work
        command = [sys.executable, "-I", "-S", "-X", "utf8", "-c", _BOOT, module, str(os.getpid())]
        with theirs, contextlib.ExitStack() as undo:
            undo.callback(self._channel.close)
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own code
                [*command, str(_ROOT), *filter(None, sys.path)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                cwd="/",
                env=_NO_ENVIRONMENT,
                start_new_session=True,  # a terminal's Ctrl-C asks the server to drain; this process has work to do
            )
            undo.pop_all()
        self.pid = self._process.pid
        self._is_started = False

    @property
    def is_alive(self) -> bool:
        """Whether the process has not ended yet."""
        return self._process.poll() is None

    def wait_started(self) -> None:
        """Return once the process is sealed. Raises what ``exchange`` raises, or msgspec's errors."""
        if self._is_started:
            return
        said = self.exchange(framed(self._setup), self.deadline(_START_S), JobMeter(self.pid))
        hello = msgspec.msgpack.decode(said, type=Hello)
        if hello.unsealed is not None:
            _LOG.warning("the process for %s runs without a system call filter: %s", self._work, hello.unsealed)
        self._is_started = True

    def deadline(self, wall_s: float, cpu_s: float | None = None) -> Deadline:
        """The end of a job that begins now."""
        return Deadline(wall_s, cpu_s, process_clock(self.pid))

    def exchange(self, frame: bytes, deadline: Deadline, meter: JobMeter) -> bytes:
        """A frame's answer. Raises TimeoutError, EOFError or OSError when there is none: then end the process."""
        self._channel.settimeout(deadline.wall_left_s())
        self._channel.sendall(frame)
        size = body_bytes(self._read(HEADER_BYTES, deadline, meter))
        if size > MAX_FRAME_BYTES:
            raise EOFError
        return self._read(size, deadline, meter)

    def ended_by(self) -> signal.Signals | None:
        """The signal by which somebody ended the process; None where it ended itself, or has not."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(_END_S)
            return next((one for one in _FROM_OUTSIDE if one == -code), None)
        return None

    def status(self) -> str:
        """How the process ended, for a person; empty where it has not."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return f"it ended at once, with status {self._process.wait(_END_S)}"
        return ""

    def end(self) -> None:
        """Kill the process and wait for its end."""
        self._channel.close()
        self._process.kill()
        self._process.wait()

    def _read(self, count: int, deadline: Deadline, meter: JobMeter) -> bytes:
        parts = []
        while count:
            self._channel.settimeout(min(deadline.left_s(), _LOOK_S))
            try:
                part = self._channel.recv(min(count, 1 << 20))
            except TimeoutError:
                meter.look()
                continue  # the process may have been kept waiting, and then it has time left
            if not part:
                raise EOFError
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


def _end_all(children: list[_Child]) -> None:
    while children:
        children.pop().end()
