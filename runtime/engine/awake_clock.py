"""How long the engine was awake: time that counts against who waits in its queue. Knows nothing of sequences.

A process that was stopped, or a machine that slept, finds one long gap on waking. Nobody waited for a place meanwhile,
and whoever waits must not be given up for it, so one gap counts for a bounded time only.
"""

from __future__ import annotations

from collections.abc import Callable

_LONG_STEP_NS = 1_000_000_000


class AwakeClock:
    """Counts the time between looks at ``clock`` (nanoseconds), each gap at most ``limit_ns / 4`` or a long step's."""

    def __init__(self, clock: Callable[[], int], limit_ns: int) -> None:
        self._clock = clock
        self._longest_gap_ns = max(limit_ns // 4, _LONG_STEP_NS)
        self._awake_ns = 0
        self._last_look_ns = clock()

    def now_ns(self) -> int:
        """Nanoseconds awake so far; a look."""
        now_ns = self._clock()
        self._awake_ns += min(now_ns - self._last_look_ns, self._longest_gap_ns)
        self._last_look_ns = now_ns
        return self._awake_ns

    def at_ns(self, clock_ns: int) -> int:
        """What ``now_ns`` would have said at an earlier reading of the clock, which counts as one gap."""
        now_ns = self.now_ns()
        return now_ns - min(self._last_look_ns - clock_ns, self._longest_gap_ns)
