"""Measures how late the client's own event loop runs. Knows nothing of requests.

Lag is what the loop adds to every arrival time: a timer is set for a known moment, and the delay until it runs is one
sample. Timers of the selector rounding up to a millisecond count as lag too, so the figure is an upper bound.
"""

from __future__ import annotations

import asyncio

import numpy as np
from numpy.typing import NDArray

from bench.http.http_client import NowNs

_PERIOD_NS = 10_000_000


class LoopLag:
    """Samples the running loop's lag every 10 ms between ``start`` and ``stop``."""

    def __init__(self, now_ns: NowNs) -> None:
        self._now_ns = now_ns
        self._samples: list[float] = []
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin sampling on the running loop."""
        due_ns = self._now_ns() + _PERIOD_NS
        self._timer = asyncio.get_running_loop().call_later(_PERIOD_NS / 1e9, self._sample, due_ns)

    def stop(self) -> NDArray[np.float64]:
        """End sampling and return all lags so far, float64 [samples], ms."""
        if self._timer is not None:
            self._timer.cancel()
        return np.array(self._samples, np.float64)

    def _sample(self, due_ns: int) -> None:
        self._samples.append((self._now_ns() - due_ns) / 1e6)
        self.start()
