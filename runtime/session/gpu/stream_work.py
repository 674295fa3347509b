"""What one call puts on the stream, in order, and how long the host was busy with that.

Knows staging, runs and the device; knows no slot and no cache.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from runtime.session.device import Device
from runtime.session.gpu.runner import Run
from runtime.session.gpu.selection_staging import SelectionStaging
from runtime.session.gpu.staging import Staging
from runtime.session.session import FloatArray


class StreamWork:
    """The stream's work of one session. ``run_ns`` are the nanoseconds in which the host queued it or waited for it."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.run_ns = 0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count what is inside."""
        begin = time.perf_counter_ns()
        try:
            yield
        finally:
            self.run_ns += time.perf_counter_ns() - begin

    @contextmanager
    def waited_for(self) -> Iterator[None]:
        """Wait for what is queued inside, also after a failure: the next call writes the inputs that it may read."""
        with self.timed():
            try:
                yield
            finally:
                self._device.synchronize()

    def fetched(self, staging: Staging, rows: Sequence[int]) -> FloatArray:
        """Rows of logits that lie on the device, [len(rows), V]."""
        with self.waited_for():
            for row in rows:
                staging.download(1, row)
        return rows_of(staging.logits, rows)


def queue_graph(run: Run, staging: Staging, num_logits: int) -> None:
    """Queue inputs, the graph, and the first ``num_logits`` rows of its logits on their way down; 0: they stay."""
    staging.upload()
    run.enqueue()
    if num_logits:
        staging.download(num_logits)


def queue_selection(run: Run, staging: SelectionStaging) -> None:
    """Queue the rules of rows, the head, and what it chose on its way down."""
    staging.upload()
    run.enqueue()
    staging.download()


def rows_of(logits: FloatArray, rows: Sequence[int]) -> FloatArray:
    """Some rows [len(rows), V]; a view where they lie side by side."""
    if rows and rows[-1] - rows[0] == len(rows) - 1:
        return logits[rows[0] : rows[-1] + 1]
    return logits[list(rows)]
