"""What a session asks of a device: memory by address, ordered copies, and replay of a recorded step.

Everything but ``allocate``, ``pinned`` and ``mark`` is queued on one stream and done, in order, by the time
``synchronize`` returns, or the ``wait`` of a mark behind it. Addresses are plain integers in the device's address
space. Every method but ``close`` may raise DeviceLost, after which no other can succeed. Knows neither graphs nor
caches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

ALIGNMENT_BYTES = 256
"""Alignment of every address handed to a graph; CUDA allocations have it, and slots must keep it."""


class Recording(Protocol):
    """Work recorded once, to be replayed with the same addresses and shapes."""

    def launch(self) -> None:
        """Queue the recorded work."""
        ...

    def close(self) -> None:
        """Forget the recorded work, of which nothing is queued any more. Closing again does nothing."""
        ...


class Mark(Protocol):
    """A place in the stream, set anew as often as is wanted."""

    def set(self) -> None:
        """Mark what is queued by now."""
        ...

    def wait(self) -> None:
        """Wait for what was queued when the mark was last set, and for nothing after it. Raises DeviceError."""
        ...


class DeviceMemory(Protocol):
    """Memory of a device, pinned memory beside it, and copies between the two: what a call's small inputs lie in."""

    def allocate(self, num_bytes: int) -> int:
        """Address of fresh device memory, zeroed. Raises DeviceOutOfMemory with the size when there is not enough."""
        ...

    def pinned(self, num_bytes: int) -> Bytes:
        """Page-locked host memory, uint8 [num_bytes], which copies need to run beside computation."""
        ...

    def upload(self, target: int, source: Bytes) -> None:
        """Queue a copy from pinned memory; ``source`` must not change before it was waited for."""
        ...

    def download(self, target: Bytes, source: int) -> None:
        """Queue a copy to pinned memory; ``target`` holds it once it was waited for."""
        ...


class Device(DeviceMemory, Protocol):
    """One device and one stream. Not thread-safe; everything allocated lives until ``close``."""

    @property
    def stream(self) -> int:
        """Handle of the stream that runtimes must queue their work on."""
        ...

    def memory_bytes(self) -> tuple[int, int]:
        """(free, total) bytes of the device's memory now. Raises DeviceError."""
        ...

    def copy_rows(self, target: int, source: int, row_bytes: int, pitch_bytes: int, num_rows: int) -> None:
        """Queue a copy of the first ``row_bytes`` of each of ``num_rows`` rows that lie ``pitch_bytes`` apart."""
        ...

    def widen(self, target: int, source: int, count: int) -> None:
        """Queue a copy of ``count`` numbers, int32 and none negative, over as many int64 that are none negative."""
        ...

    def mark(self) -> Mark:
        """A new mark, which lives until ``close``. Raises DeviceError."""
        ...

    def record(self, work: Callable[[], None]) -> Recording:
        """Record what ``work`` queues, without running it.

        Raises RecordingRefused when the device cannot record it, which leaves the stream as it was; DeviceLost.
        """
        ...

    def synchronize(self) -> None:
        """Wait for everything queued. Raises DeviceError if any of it failed."""
        ...

    def close(self) -> None:
        """Free everything. Raises nothing: what the device refuses is logged. Closing again does nothing."""
        ...
