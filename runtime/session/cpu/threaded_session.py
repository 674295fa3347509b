"""A CPU session one step ahead: decode calls, and the drawing of their tokens, on a thread of their own.

The thread goes from one call's tokens to the next call without anybody's help, so what the engine does about the tokens
runs beside the arithmetic. Calls that are not launched run on the caller's thread, while none that was launched is
under way. Knows the device seam and one thread; knows neither ONNX Runtime nor how a token is drawn.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from queue import SimpleQueue

import numpy as np

from runtime.adapter import Adapter
from runtime.errors import DeviceError
from runtime.session.selected import Logits, Selected
from runtime.session.selection_table import SelectionTable
from runtime.session.session import FROM_DEVICE, FloatArray, HostDraw, Int64Array, Session, SessionInfo
from runtime.session.takes_adapters import pass_adapter

MOST_LAUNCHED = 2


@dataclass(frozen=True, slots=True)
class _Call:
    """A decode call of B rows, and what draws their tokens."""

    slots: Int64Array
    token_ids: Int64Array
    positions: Int64Array
    draw: HostDraw


class ThreadedSession:
    """``runtime.session.session.AheadSession`` over a session that chooses no tokens, which it closes.

    The thread is started by the first launch and is gone when ``close`` returns.
    """

    def __init__(self, inner: Session) -> None:
        self._inner = inner
        self._info = replace(inner.info, runs_ahead=True)
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._failures: SimpleQueue[BaseException | None] = SimpleQueue()
        self._num_launched = 0
        self._thread: threading.Thread | None = None
        self._is_closing = False
        self._run_ns = inner.run_ns

    @property
    def info(self) -> SessionInfo:
        """Fixed for the session's life."""
        return self._info

    @property
    def run_ns(self) -> int:
        """Nanoseconds that the caller spent on calls: of those that were launched, what it still waited."""
        return self._run_ns

    def launch(self, slots: Int64Array, token_ids: Int64Array, positions: Int64Array, selection: HostDraw) -> None:
        """See ``AheadSession.launch``."""
        if self._is_closing or self._num_launched == MOST_LAUNCHED:
            raise DeviceError(f"{self._num_launched} decode calls are on their way, or the thread was ended")
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="powertrain-decode", daemon=True)
            self._thread.start()
        self._num_launched += 1
        self._calls.put(_Call(slots, token_ids, positions, selection))

    def wait(self) -> Selected:
        """See ``AheadSession.wait``. Raises whatever failed on the thread."""
        if not self._num_launched:
            raise DeviceError("no decode call was launched")
        begin = time.perf_counter_ns()
        failure = self._failures.get()
        self._run_ns += time.perf_counter_ns() - begin
        self._num_launched -= 1
        if failure is not None:
            raise failure
        return Selected(_no_logits)

    def _work(self) -> None:
        """Run what is launched, in turn, until None comes."""
        drawn: dict[int, int] | None = {}
        while (call := self._calls.get()) is not None and not self._is_closing:
            failure: BaseException | None = None
            try:
                drawn = self._run(call, drawn)
            except BaseException as error:  # noqa: BLE001 - the thread's loop: whoever waits for the call gets it
                drawn, failure = None, error
            self._failures.put(failure)

    def _run(self, call: _Call, before: dict[int, int] | None) -> dict[int, int]:
        """Each slot's token, given those of the call before; None if that failed."""
        token_ids = call.token_ids
        if FROM_DEVICE in token_ids.tolist():
            if before is None:
                raise DeviceError("the decode call before this one failed")
            known = zip(call.slots.tolist(), token_ids.tolist(), strict=True)
            token_ids = np.array([before[slot] if own == FROM_DEVICE else own for slot, own in known], np.int64)
        answer = self._inner.decode_tokens(call.slots, token_ids, call.positions)
        return dict(zip(call.slots.tolist(), call.draw(answer.logits(range(len(call.slots)))), strict=True))

    def decode_tokens(
        self, slots: Int64Array, token_ids: Int64Array, positions: Int64Array, selection: SelectionTable | None = None
    ) -> Selected:
        """See ``Session.decode_tokens``."""
        with self._direct() as inner:
            return inner.decode_tokens(slots, token_ids, positions, selection)

    def prefill_token(
        self, slot: int, token_ids: Int64Array, start: int, selection: SelectionTable | None = None
    ) -> Selected:
        """See ``Session.prefill_token``."""
        with self._direct() as inner:
            return inner.prefill_token(slot, token_ids, start, selection)

    def prefill(self, slot: int, token_ids: Int64Array, start: int, num_logits: int) -> FloatArray:
        """See ``Session.prefill``."""
        with self._direct() as inner:
            return inner.prefill(slot, token_ids, start, num_logits)

    def copy_slot(self, source: int, target: int, num_tokens: int, start: int = 0) -> None:
        """See ``Session.copy_slot``."""
        with self._direct() as inner:
            inner.copy_slot(source, target, num_tokens, start)

    def set_adapter(self, slot: int, adapter: Adapter | None) -> None:
        """See ``TakesAdapters``; of no use but around a session that is one."""
        pass_adapter(self._inner, slot, adapter)

    def close(self) -> None:
        """See ``Session.close``. A call that runs is waited for, one behind it is not begun."""
        self.stop()
        self._inner.close()

    def stop(self) -> None:
        """End the thread alone. Nothing can be launched afterwards."""
        self._is_closing = True
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join()
            self._thread = None

    @contextmanager
    def _direct(self) -> Iterator[Session]:
        """The session below, for a call on the caller's thread."""
        if self._num_launched:
            raise DeviceError("a decode call was launched and not waited for")
        before = self._inner.run_ns
        try:
            yield self._inner
        finally:
            self._run_ns += self._inner.run_ns - before


def _no_logits(places: Sequence[int]) -> Logits:
    raise DeviceError(f"the logits of {len(places)} rows are gone: their tokens were drawn as they came")
