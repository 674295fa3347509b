"""The server's side of a sealed process: started when needed, killed at a job's deadline, started again.

Owns the process and every way in which it can fail. Knows no kind of work, no queue and no HTTP.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import weakref
from pathlib import Path

import msgspec

from runtime.sealed.deadline import Deadline, process_clock
from runtime.sealed.frame import HEADER_BYTES, MAX_FRAME_BYTES, Hello, body_bytes, framed
from runtime.sealed.job_cost import JobCost, JobMeter

_LOG = logging.getLogger("powertrain.sealed")
_START_S = 30  # an interpreter and its imports take a tenth of a second, on a machine with nothing else to do
_LOOK_S = 0.02
"""How often a process at work is looked at: one that ends for want of memory leaves nothing to look at."""
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
        """One job's answer. Raises TimeoutError at a limit, EOFError or OSError where the process ends instead.

        Then it is killed, and another one is started at once. Raises RuntimeError where none can be started.
        ``deadline_s`` is by the clock on the wall, ``cpu_limit_s`` what the process itself may compute.
        """
        frame = framed(job)
        child = self._started_child()
        meter = JobMeter(child.pid)
        try:
            return child.exchange(frame, child.deadline(deadline_s, cpu_limit_s), meter)
        except (OSError, EOFError) as error:
            self.last_cost = meter.look()
            _LOG.warning("a job ended the process for %s (%s); a new one is started", self._work, type(error).__name__)
            self.end()
            self.start()
            raise

    def start(self) -> None:
        """Start the process if there is none, and do not wait for it. Raises RuntimeError where none can be started."""
        if self._children and not self._children[0].is_alive:
            self.end()  # killed between two jobs, by a person or for want of memory
        if not self._children:
            try:
                self._children.append(_Child(self._module, self._setup, self._work))
            except OSError as error:
                raise RuntimeError(f"the process for {self._work} did not start") from error

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
            self.end()
            raise RuntimeError(f"the process for {self._work} did not start") from error
        return self._children[0]


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
