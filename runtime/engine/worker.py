"""The engine thread: owns the engine from the first byte of the model to the last event.

Other threads reach it through ``submit``, ``abort`` and ``close`` only; events leave through one ``sink`` call per
step. Every accepted request ends in exactly one FinishEvent per choice, also when the engine dies. Knows threads and
a bounded queue; knows no asyncio, no text and no HTTP.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum

from runtime.engine.admission import Admission
from runtime.engine.config import EngineConfig
from runtime.engine.engine import Engine
from runtime.engine.step_report import EngineStats
from runtime.errors import EngineUnavailable, PowertrainError
from runtime.events import Event, FinishEvent, FinishReason, Timing
from runtime.request import Request
from runtime.session.session import Session

_LOG = logging.getLogger("powertrain.engine")
_CPU = "cpu"


class EngineState(StrEnum):
    """Where the engine stands. DRAINING is decided by whoever stops admitting (``runtime.engine.async_engine``)."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    DEAD = "dead"


class EngineWorker:
    """Runs an engine on a thread of its own.

    ``sink`` is called on the engine thread with all events of a step, ``on_state`` after every change of state.
    """

    def __init__(
        self,
        session_factory: Callable[[], Session],
        config: EngineConfig,
        sink: Callable[[list[Event]], None],
        on_state: Callable[[], None],
    ) -> None:
        self._session_factory = session_factory
        self._config = config
        self._sink = sink
        self._on_state = on_state
        self._wake = threading.Condition()
        self._submitted: deque[Request] = deque()
        self._aborted: deque[tuple[str, int | None]] = deque()
        self._closing = False
        self._admission = Admission(config)
        self._num_steps = 0
        self._thread = threading.Thread(target=self._main, name="powertrain-engine", daemon=True)
        self.state = EngineState.LOADING
        self.shares_cores = False  # True when the session computes on the cores that this process runs on
        self.failure: str | None = None
        self.stats = EngineStats()

    def start(self) -> None:
        """Start the thread; it builds the session, warms up, and then serves."""
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Queue a request. Raises Overloaded when it would wait too long, EngineUnavailable unless READY."""
        with self._wake:
            if self.state is not EngineState.READY or self._closing:
                raise EngineUnavailable(self.failure or f"the engine is {self.state.value}")
            self._admission.check()
            self._admission.accept(request)
            self._submitted.append(request)
            self._wake.notify()

    def require_room(self) -> None:
        """Raise Overloaded when a request submitted now would be refused for the time it had to wait."""
        with self._wake:
            self._admission.check()

    def abort(self, request_id: str, index: int | None = None) -> None:
        """Ask for the end of one choice or a whole request; it takes effect before the next step."""
        with self._wake:
            self._aborted.append((request_id, index))
            self._admission.note_abort(request_id, index)
            self._wake.notify()

    def close(self, timeout_s: float | None = None) -> None:
        """End the thread after the step in hand; unfinished choices end with ABORT. Waits for it up to a limit."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    @property
    def has_ended(self) -> bool:
        """True when no thread runs: what it held is free."""
        return not self._thread.is_alive()

    def progress(self) -> int | None:
        """A number that grows with every step; None while there is nothing to do. No clock is asked."""
        with self._wake:
            if self.state is not EngineState.READY or self._admission.num_choices == 0:
                return None
            return self._num_steps

    def _main(self) -> None:
        engine: Engine | None = None
        session: Session | None = None
        try:
            session = self._session_factory()
            if self._closing:
                return
            if not session.info.batch_invariant:
                _LOG.warning(
                    "backend %s: a request's numbers may depend on what runs beside it, in the last bits",
                    session.info.backend,
                )
            engine = Engine(session, self._config)
            engine.warm_up()
            self._become_ready(engine)
            self._serve(engine)
        except Exception as error:  # noqa: BLE001 - the worker loop: whatever happens, every request must end
            is_expected = engine is None and isinstance(error, PowertrainError)  # its text says what to do
            _LOG.error("the engine died: %s", error, exc_info=not is_expected)
            self._die(engine, f"{type(error).__name__}: {error}")
        finally:
            if session is not None:
                session.close()

    def _become_ready(self, engine: Engine) -> None:
        self.stats = engine.stats()
        self.shares_cores = engine.session.info.backend == _CPU
        with self._wake:
            self._admission.num_slots = engine.session.info.num_slots
            self.state = EngineState.READY
        self._on_state()

    def _serve(self, engine: Engine) -> None:
        while True:
            requests, aborted, closing = self._take(idle=not engine.has_work)
            for request in requests:
                engine.add(request)
            for request_id, index in aborted:
                self._deliver(engine.abort(request_id, index))
            if closing:
                self._deliver(self._abort_all(engine))
                return
            begin_ns = time.perf_counter_ns()
            result = engine.step()
            self._num_steps += 1
            with self._wake:
                self._admission.note_step(result.num_prefilled, time.perf_counter_ns() - begin_ns)
            self.stats = engine.stats()  # before the events: who reads an end must find it counted
            self._deliver(result.events)

    def _take(self, *, idle: bool) -> tuple[list[Request], list[tuple[str, int | None]], bool]:
        with self._wake:
            while idle and not (self._submitted or self._aborted or self._closing):
                self._wake.wait()
            requests, aborted = list(self._submitted), list(self._aborted)
            self._submitted.clear()
            self._aborted.clear()
            return requests, aborted, self._closing

    def _abort_all(self, engine: Engine) -> list[Event]:
        return [event for request_id in engine.live_request_ids() for event in engine.abort(request_id)]

    def _deliver(self, events: list[Event]) -> None:
        if not events:
            return
        with self._wake:
            self._admission.note_events(events)
        self._sink(events)

    def _die(self, engine: Engine | None, failure: str) -> None:
        with self._wake:
            self.state = EngineState.DEAD
            self.failure = failure
            never_seen = list(self._submitted)
            self._submitted.clear()
        events = engine.fail_all(failure) if engine is not None else []
        now_ns = time.perf_counter_ns()
        for request in never_seen:
            timing = Timing(request.arrival_ns, 0, 0, now_ns)
            events.extend(
                FinishEvent(request.request_id, index, FinishReason.ERROR, None, 0, 0, timing, failure)
                for index in range(request.n)
            )
        self._deliver(events)
        self._on_state()
