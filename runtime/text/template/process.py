"""The server's side of template rendering: a sealed process, killed at its deadline, started again at once.

Owns the process, its queue and every way in which it can fail; a template that crashes it costs one job. Each worker
has a thread of its own, which starts the process and waits for it: neither an event loop nor another worker does.
Knows no tokenizer and no HTTP.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec

from runtime.errors import Overloaded, TemplateError
from runtime.text.template.wire import (
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    Hello,
    Job,
    Rendering,
    TemplateLimits,
    body_bytes,
    framed,
)

_LOG = logging.getLogger("powertrain.template")
_START_S = 30  # an interpreter and its imports take a tenth of a second, on a machine with nothing else to do
_NO_ENVIRONMENT: dict[str, str] = {}
_ROOT = Path(__file__).parents[3]
# The modules are found where this process finds them; an empty environment and no site hooks are all it starts with.
_BOOT = "import sys; sys.path[:] = sys.argv[3:]; from runtime.text.template.worker import main; main(*sys.argv[1:3])"


class TemplateWorker:
    """Renders one job after another in a process of its own, first come, first served. Safe to use from any thread.

    ``queue`` is how many jobs may wait or run. The process starts with the first job, and again after ``close``.
    """

    def __init__(self, name: str = "templates", *, limits: TemplateLimits | None = None, queue: int = 256) -> None:
        self.limits = limits or TemplateLimits()
        self._queue = queue
        self._places = threading.BoundedSemaphore(queue)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._children: list[_Child] = []  # none or one; shared with the finalizer
        weakref.finalize(self, _end_all, self._children)

    def submit(self, job: Job) -> Future[Rendering]:
        """A future of the rendering; it fails with TemplateError. Raises Overloaded when the queue is full."""
        if not self._places.acquire(blocking=False):
            raise Overloaded(f"{self._queue} chat templates wait to be rendered, no more may wait")
        future = self._executor.submit(self._run, job)
        future.add_done_callback(lambda _future: self._places.release())
        return future

    def close(self) -> None:
        """End the process after the jobs that were submitted before."""
        if self._children:
            self._executor.submit(_end_all, self._children).result()

    @property
    def pid(self) -> int | None:
        """The process's id, or None while there is none."""
        return self._children[0].pid if self._children else None

    def _run(self, job: Job) -> Rendering:
        try:
            frame = framed(job)
        except (msgspec.MsgspecError, OverflowError, RecursionError) as error:
            raise TemplateError(f"the messages hold a value that no template can be given: {error}") from error
        child = self._started_child()
        try:
            rendering = child.exchange(frame, self.limits.deadline_s)
        except (OSError, EOFError, msgspec.MsgspecError) as error:
            _end_all(self._children)
            _LOG.warning("a chat template ended its process (%s); a new one is started", type(error).__name__)
            self._children.append(_Child(self.limits))
            raise TemplateError(self._cause(error)) from error
        if rendering.error is not None:
            raise TemplateError(rendering.error)
        return rendering

    def _started_child(self) -> _Child:
        if self._children and not self._children[0].is_alive:
            _end_all(self._children)  # killed between two jobs, by a person or for want of memory
        if not self._children:
            self._children.append(_Child(self.limits))
        try:
            self._children[0].wait_started()
        except (OSError, EOFError, msgspec.MsgspecError) as error:
            _end_all(self._children)
            raise RuntimeError("the process that renders chat templates did not start") from error
        return self._children[0]

    def _cause(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"the chat template ran for longer than the {self.limits.deadline_s:g} s that are allowed"
        return "the chat template crashed the process that renders it"


class _Child:
    """One sealed process. Used by one thread."""

    def __init__(self, limits: TemplateLimits) -> None:
        self._channel, theirs = socket.socketpair()
        words = [msgspec.json.encode(limits).decode(), str(os.getpid()), str(_ROOT), *filter(None, sys.path)]
        command = [sys.executable, "-I", "-S", "-X", "utf8", "-c", _BOOT, *words]
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own code
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                cwd="/",
                env=_NO_ENVIRONMENT,
                start_new_session=True,  # a terminal's Ctrl-C asks the server to drain; this process has work to do
            )
        self.pid = self._process.pid
        self._is_started = False

    @property
    def is_alive(self) -> bool:
        """Whether the process has not ended yet."""
        return self._process.poll() is None

    def wait_started(self) -> None:
        """Return once the process is sealed. Raises what ``exchange`` raises."""
        if self._is_started:
            return
        hello = msgspec.msgpack.decode(self._receive(time.monotonic() + _START_S), type=Hello)
        if hello.unsealed is not None:
            _LOG.warning("chat templates run without a system call filter: %s", hello.unsealed)
        self._is_started = True

    def exchange(self, frame: bytes, deadline_s: float) -> Rendering:
        """One job's answer. Raises TimeoutError, EOFError or OSError when there is none: then end the process."""
        deadline = time.monotonic() + deadline_s
        self._channel.settimeout(deadline_s)
        self._channel.sendall(frame)
        return msgspec.msgpack.decode(self._receive(deadline), type=Rendering)

    def end(self) -> None:
        """Kill the process and wait for its end."""
        self._channel.close()
        self._process.kill()
        self._process.wait()

    def _receive(self, deadline: float) -> bytes:
        size = body_bytes(self._read(HEADER_BYTES, deadline))
        if size > MAX_FRAME_BYTES:
            raise EOFError
        return self._read(size, deadline)

    def _read(self, count: int, deadline: float) -> bytes:
        parts = []
        while count:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self._channel.settimeout(left_s)
            part = self._channel.recv(min(count, 1 << 20))
            if not part:
                raise EOFError
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


def _end_all(children: list[_Child]) -> None:
    while children:
        children.pop().end()
