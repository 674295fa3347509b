"""The server's side of template rendering: a queue, and the sealed process that works it off.

A template that crashes or hangs costs one job. Each worker has a thread of its own, which starts the process and waits
for it: neither an event loop nor another worker does. Knows no tokenizer and no HTTP.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec

from runtime.errors import Overloaded, ProcessUnavailable, TemplateError
from runtime.sealed.process import SealedProcess
from runtime.text.template.wire import Job, Rendering, TemplateLimits


class TemplateWorker:
    """Renders one job after another in a process of its own, first come, first served. Safe to use from any thread.

    ``queue`` is how many jobs may wait or run. The process starts with the first job, and again after ``close``.
    """

    def __init__(self, name: str = "templates", *, limits: TemplateLimits | None = None, queue: int = 256) -> None:
        self.limits = limits or TemplateLimits()
        self._queue = queue
        self._places = threading.BoundedSemaphore(queue)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        setup = msgspec.msgpack.encode(self.limits)
        self._process = SealedProcess("runtime.text.template.worker", setup, work="chat templates")

    def submit(self, job: Job) -> Future[Rendering]:
        """A future of the rendering; it fails with TemplateError, or ProcessUnavailable where no process renders.

        Raises Overloaded when the queue is full, ProcessUnavailable where the machine has no thread left.
        """
        if not self._places.acquire(blocking=False):
            raise Overloaded(f"{self._queue} chat templates wait to be rendered, no more may wait")
        try:
            future = self._executor.submit(self._run, job)
        except RuntimeError as error:  # the first job starts the thread
            self._places.release()
            raise ProcessUnavailable("the server cannot start its thread for chat templates; try again") from error
        future.add_done_callback(lambda _future: self._places.release())
        return future

    def close(self) -> None:
        """End the process after the jobs that were submitted before."""
        if self._process.pid is not None:
            self._executor.submit(self._process.end).result()

    @property
    def pid(self) -> int | None:
        """The process's id, or None while there is none."""
        return self._process.pid

    def _run(self, job: Job) -> Rendering:
        try:
            body = msgspec.msgpack.encode(job)
        except (msgspec.MsgspecError, OverflowError, RecursionError) as error:
            raise TemplateError(f"the messages hold a value that no template can be given: {error}") from error
        try:
            rendering = msgspec.msgpack.decode(self._process.exchange(body, self.limits.deadline_s), type=Rendering)
        except TimeoutError as error:
            limit_s = self.limits.deadline_s
            raise TemplateError(f"the chat template ran for longer than the {limit_s:g} s that are allowed") from error
        except (EOFError, msgspec.MsgspecError) as error:
            raise TemplateError("the chat template crashed the process that renders it") from error
        if rendering.error is not None:
            raise TemplateError(rendering.error)
        return rendering
