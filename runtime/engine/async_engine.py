"""The engine as an asyncio server sees it: submit a request, iterate over its events, abort it, drain, close.

Bridges the engine thread to one event loop with one ``call_soon_threadsafe`` per step. Everything here runs on the
loop except ``_from_engine``, which lets the loop hand on a request's first token before the next step takes all cores.
Knows no text and no HTTP.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from runtime.engine.config import EngineConfig
from runtime.engine.step_report import EngineStats
from runtime.engine.worker import EngineState, EngineWorker
from runtime.errors import EngineUnavailable
from runtime.events import Event, FinishEvent, FinishReason, Timing
from runtime.request import Request
from runtime.session.session import Session

_TICKS_PER_LIMIT = 4
_HAND_OVER_S = 0.002
"""How long the engine waits for the loop to hand on a first token: it takes 0.3 ms where the loop has nothing else."""

__all__ = ["AsyncEngine", "EngineState", "EventStream"]


class EventStream:
    """Events of one request, in order; iterates over lists, each what one engine step delivered."""

    def __init__(self, request: Request, on_abort: Callable[[str, int | None], None]) -> None:
        self.request = request
        self._on_abort = on_abort
        self._events: list[Event] = []
        self._unfinished = set(range(request.n))
        self._reader: asyncio.Future[None] | None = None  # waited for by whoever reads
        self._aborted: set[int] = set()

    @property
    def finished(self) -> bool:
        """True when every choice has ended, read or not."""
        return not self._unfinished

    def abort(self, index: int | None = None) -> None:
        """Ask the engine to drop one choice or all of them; what is unfinished ends with ABORT. Idempotent."""
        wanted = self._unfinished if index is None else self._unfinished & {index}
        if wanted - self._aborted:
            self._aborted |= wanted
            self._on_abort(self.request.request_id, index)

    def push(self, events: list[Event]) -> None:
        """Take events from the engine; those of a choice that has ended already are dropped."""
        for event in events:
            if event.index not in self._unfinished:
                continue
            self._events.append(event)
            if isinstance(event, FinishEvent):
                self._unfinished.discard(event.index)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def fail(self, error: str, now_ns: int) -> None:
        """End every unfinished choice with ERROR without the engine's help: it hangs."""
        timing = Timing(self.request.arrival_ns, 0, 0, now_ns)
        self.push(
            [
                FinishEvent(self.request.request_id, index, FinishReason.ERROR, None, 0, 0, timing, error)
                for index in sorted(self._unfinished)
            ]
        )

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> list[Event]:
        if not self._events:
            if not self._unfinished:
                raise StopAsyncIteration
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        events, self._events = self._events, []
        return events


class AsyncEngine:
    """One engine on one event loop."""

    def __init__(self, session_factory: Callable[[], Session], config: EngineConfig) -> None:
        self._config = config
        self._worker = EngineWorker(session_factory, config, self._from_engine, self._state_from_engine)
        self._streams: dict[str, EventStream] = {}
        self._begun: set[str] = set()  # requests of which the engine has told something
        self._draining = False
        self._hung = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed: asyncio.Event = asyncio.Event()
        self._watchdog: asyncio.TimerHandle | None = None
        self._last_progress: int | None = None
        self._ticks_without_progress = 0

    def start(self) -> None:
        """Start loading; call on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._worker.start()
        self._watch()

    @property
    def state(self) -> EngineState:
        """READY only when a request submitted now would run."""
        if self._hung or self._worker.state is EngineState.DEAD:
            return EngineState.DEAD
        if self._draining:
            return EngineState.DRAINING
        return self._worker.state

    @property
    def failure(self) -> str | None:
        """Why the engine is DEAD, in one line for the log."""
        if self._hung:
            return f"no progress for {self._config.watchdog_s:g} s with requests at hand"
        return self._worker.failure

    @property
    def is_loading(self) -> bool:
        """True while the engine's thread loads the model, also after ``close``, which does not wait for that."""
        return self._worker.state is EngineState.LOADING

    @property
    def has_ended(self) -> bool:
        """True before the start, and once the engine's thread has ended and freed what it held."""
        return self._worker.has_ended

    def stats(self) -> EngineStats:
        """The engine's counts after its last step."""
        return self._worker.stats

    @property
    def num_live(self) -> int:
        """Requests that have not ended."""
        return len(self._streams)

    def submit(self, request: Request) -> EventStream:
        """Queue a request. Raises Overloaded or EngineUnavailable at once; nothing is queued then."""
        if self.state is not EngineState.READY:
            raise EngineUnavailable(f"the engine is {self.state.value}")
        self._worker.submit(request)
        stream = EventStream(request, self._worker.abort)
        self._streams[request.request_id] = stream
        return stream

    def require_room(self) -> None:
        """Raise Overloaded when a request submitted now would be refused for the time it had to wait."""
        self._worker.require_room()

    async def wait_ready(self) -> None:
        """Return when READY; raises EngineUnavailable when loading failed."""
        while self.state is EngineState.LOADING:
            self._changed.clear()
            await self._changed.wait()
        if self.state is not EngineState.READY:
            raise EngineUnavailable(self.failure or f"the engine is {self.state.value}")

    async def drain(self, timeout_s: float) -> None:
        """Admit nothing more; return when every request has ended, aborting what is left after ``timeout_s``."""
        self._draining = True
        self._changed.set()
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle()
        except TimeoutError:
            for stream in list(self._streams.values()):
                stream.abort()

    async def close(self) -> None:
        """End the engine thread; unfinished requests end with ABORT."""
        self._draining = True
        if self._watchdog is not None:
            self._watchdog.cancel()
        # A thread that hangs, or that loads a model, cannot be ended from outside; it is a daemon, and sees the request
        # to close if it comes back to us.
        is_away = self._hung or self.is_loading
        await asyncio.to_thread(self._worker.close, 0.0 if is_away else None)
        if is_away:
            self._loop = None

    async def _idle(self) -> None:
        while self._streams:
            self._changed.clear()
            await self._changed.wait()

    def _from_engine(self, events: list[Event]) -> None:
        """Pass events to the loop. After a request's first ones wait a moment for it to hand them on.

        The next step would take every core at once, and the scheduler lets the loop's thread wait for some milliseconds
        beside it. Later tokens are not waited for: they come at the model's pace, whatever the delay.
        """
        if self._loop is None:
            return
        first = {event.request_id for event in events} - self._begun
        if not (first and self._worker.shares_cores):
            self._loop.call_soon_threadsafe(self._dispatch, events, None)
            return
        self._begun |= first
        handed_on = threading.Event()
        self._loop.call_soon_threadsafe(self._dispatch, events, handed_on)
        handed_on.wait(_HAND_OVER_S)

    def _state_from_engine(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._changed.set)

    def _dispatch(self, events: list[Event], handed_on: threading.Event | None) -> None:
        by_request: dict[str, list[Event]] = {}
        for event in events:
            by_request.setdefault(event.request_id, []).append(event)
        for request_id, mine in by_request.items():
            stream = self._streams.get(request_id)
            if stream is not None:
                stream.push(mine)
                if stream.finished:
                    del self._streams[request_id]
            if request_id not in self._streams:
                self._begun.discard(request_id)
        if handed_on is not None:
            asyncio.get_running_loop().call_soon(handed_on.set)  # behind the readers that were just woken
        if not self._streams:
            self._changed.set()

    def _watch(self) -> None:
        """Look for a hang a few times per limit; a hung engine's requests end with one error each.

        What counts are looks in a row that saw no step since the one before, not the time between two: a process that
        was stopped, or a machine that slept, finds one late look on waking, and its engine at work before the next.
        """
        if self._loop is None:
            return
        progress = self._worker.progress()
        is_stuck = progress is not None and progress == self._last_progress
        self._ticks_without_progress = self._ticks_without_progress + 1 if is_stuck else 0
        self._last_progress = progress
        if self._ticks_without_progress >= _TICKS_PER_LIMIT and not self._hung:
            self._hung = True
            now_ns = int(self._loop.time() * 1e9)
            for stream in list(self._streams.values()):
                stream.abort()
                stream.fail(self.failure or "hung", now_ns)
            self._streams.clear()
            self._changed.set()
        elif not is_stuck:
            self._hung = False
        self._watchdog = self._loop.call_later(self._config.watchdog_s / _TICKS_PER_LIMIT, self._watch)
