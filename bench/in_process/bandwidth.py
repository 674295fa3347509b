"""Measures how fast this machine reads memory: the limit that single-stream decoding runs into."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

_BYTES_PER_THREAD = 256 * 2**20
_PASSES = 7


def read_bandwidth(threads: int) -> float:
    """Bytes per second that ``threads`` threads read together: the best of several passes over large arrays.

    The reduction is NumPy's integer sum, which releases the GIL and keeps up with memory. The arrays are far larger
    than any cache. The best pass, because everything that disturbs one makes it slower.
    """
    parts = [np.ones(_BYTES_PER_THREAD // 8, np.int64) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        seconds = min(_timed_pass(pool, parts) for _ in range(_PASSES))
    return threads * _BYTES_PER_THREAD / seconds


def _timed_pass(pool: ThreadPoolExecutor, parts: list[NDArray[np.int64]]) -> float:
    begin = time.perf_counter()
    list(pool.map(np.add.reduce, parts))
    return time.perf_counter() - begin
