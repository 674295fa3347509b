"""When a failed call of the session is the failure of its requests alone, and when it is the end of the engine.

A server that fails every request and stays ready is worse than one that is restarted. Knows errors and a count, and
nothing of sequences.
"""

from __future__ import annotations

from runtime.errors import DeviceError, DeviceLost

BACKEND_FAILURES = (DeviceError, MemoryError)
"""What a session's calls raise."""

MAX_FAILED_CALLS = 8
"""Failed calls in a row, with no prefill and no decode between them that worked, after which the engine ends.

Failures that come with one request (its size, a constraint of one kernel) come one at a time between calls that work,
and a shortage of memory passes as others end. What fails eight times with nothing between has no reason to stop, and
only a new process helps; each of the eight has cost at least one request."""


class CallHealth:
    """Counts failed calls in a row. One for an engine's life."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def worked(self) -> None:
        """Note a prefill or a decode whose numbers came back. A copy proves nothing: it may only have been queued."""
        self._in_a_row = 0

    def failed(self, error: Exception) -> None:
        """Note one of ``BACKEND_FAILURES``. Raises DeviceLost when the engine must end, for this one or for all."""
        if isinstance(error, DeviceLost):
            raise error
        self._in_a_row += 1
        if self._in_a_row >= MAX_FAILED_CALLS:
            raise DeviceLost(f"{self._in_a_row} calls failed in a row and none worked; the last: {said(error)}")


def said(error: Exception) -> str:
    """An error in one line, for the log and the event."""
    return f"{type(error).__name__}: {error}"
