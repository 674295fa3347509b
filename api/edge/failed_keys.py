"""How often an address came without a valid key lately. A bounded table; knows no request.

A valid key is never held up by others' failures behind the same address, so this only slows down who has none: it
keeps a loop with an old key from filling the log, and says so to the client.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

FREE_FAILURES = 10
"""Failures of an address that are answered as failures, before it is told to wait."""
_MAX_WAIT_S = 60
_MAX_ADDRESSES = 1024


class FailedKeys:
    """Failures by address; the address that failed longest ago is forgotten first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def note(self, address: str) -> int:
        """Count one failure. Returns the seconds that the address is to wait, 0 while it need not.

        Formula: 2 ** (failures - FREE_FAILURES - 1), at most 60. A minute without a failure clears the address.
        """
        now = self._clock()
        count, last = self._failures.pop(address, (0, now))
        count = 1 if now - last >= _MAX_WAIT_S else count + 1
        self._failures[address] = (count, now)
        if len(self._failures) > _MAX_ADDRESSES:
            self._failures.popitem(last=False)
        excess = count - FREE_FAILURES
        return 0 if excess <= 0 else min(_MAX_WAIT_S, 2 ** min(excess - 1, 6))
