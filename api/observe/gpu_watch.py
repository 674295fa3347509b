"""The GPU's memory and load as NVML sees them, for the metrics. A thread of its own reads; a scrape gets what it read.

NVML may take its time, and hangs with a driver that does, so nobody waits for it: what was read too long ago is not
told. Without ``nvidia-ml-py``, without NVML, or for a figure that the GPU does not have (memory that it shares with the
machine, the load of a MIG part), nothing is told. Knows no metric's name.
"""

from __future__ import annotations

import importlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

_LOG = logging.getLogger("powertrain.server")

PERIOD_S = 2.0
"""Between two readings; shorter than any scraper's interval."""
MAX_AGE_S = 3 * PERIOD_S


@dataclass(frozen=True, slots=True)
class GpuReading:
    """What the GPU, whoever uses it, takes of its memory, and the share of time, 0 to 1, in which a kernel ran."""

    used_bytes: int | None = None
    total_bytes: int | None = None
    utilization: float | None = None


class Reader(Protocol):
    """Reads one GPU."""

    def read(self) -> GpuReading:
        """Its figures now; None where it has none."""
        ...

    def close(self) -> None:
        """Let go of NVML."""
        ...


def open_nvml(uuid: str) -> Reader | None:
    """A reader of the GPU or MIG part with a UUID; None, and a line in the log, without what it needs."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        _LOG.info("no metrics of the GPU: the package nvidia-ml-py is missing")
        return None
    try:
        nvml.nvmlInit()
        return NvmlReader(nvml, nvml.nvmlDeviceGetHandleByUUID(uuid))
    except nvml.NVMLError as error:
        _LOG.info("no metrics of the GPU: NVML says: %s", error)
        return None


class NvmlReader:
    """One GPU through the module ``pynvml``, which was initialised, and its handle."""

    def __init__(self, nvml: Any, handle: Any) -> None:  # noqa: ANN401 - pynvml has no types
        self._nvml, self._handle = nvml, handle

    def read(self) -> GpuReading:
        """See ``Reader.read``. Memory that the driver reserves for itself counts as neither used nor free."""
        nvml = self._nvml
        memory = self._asked(lambda: nvml.nvmlDeviceGetMemoryInfo(self._handle, version=nvml.nvmlMemory_v2))
        rates = self._asked(lambda: nvml.nvmlDeviceGetUtilizationRates(self._handle))
        return GpuReading(
            used_bytes=None if memory is None else int(memory.used),
            total_bytes=None if memory is None else int(memory.total),
            utilization=None if rates is None else int(rates.gpu) / 100,
        )

    def close(self) -> None:
        """See ``Reader.close``."""
        self._asked(self._nvml.nvmlShutdown)

    def _asked(self, call: Callable[[], Any]) -> Any:  # noqa: ANN401 - pynvml has no types
        try:
            return call()
        except self._nvml.NVMLError:
            return None


class GpuWatch:
    """Reads the GPU with ``uuid`` every PERIOD_S from ``start`` to ``close``, for as long as it ``is_used``.

    ``clock`` returns seconds. A server that went on without the GPU says nothing of it: what others do there is theirs.
    """

    def __init__(
        self,
        uuid: str,
        open_reader: Callable[[str], Reader | None] = open_nvml,
        clock: Callable[[], float] = time.monotonic,
        is_used: Callable[[], bool] = lambda: True,
    ) -> None:
        self.uuid = uuid
        self._open_reader = open_reader
        self._clock = clock
        self._is_used = is_used
        self._ended = threading.Event()
        self._last: tuple[float, GpuReading] | None = None
        self._thread = threading.Thread(target=self._main, name="powertrain-gpu-watch", daemon=True)

    def start(self) -> None:
        """Begin to read. Returns at once."""
        self._thread.start()

    def close(self) -> None:
        """End the thread after the reading in hand; does not wait for one that hangs."""
        self._ended.set()

    def latest(self) -> GpuReading:
        """The last reading, and an empty one if there is none that is recent, or the GPU is not used."""
        last = self._last
        is_told = last is not None and self._clock() - last[0] <= MAX_AGE_S and self._is_used()
        return last[1] if last is not None and is_told else GpuReading()

    def _main(self) -> None:
        reader = self._open_reader(self.uuid)
        if reader is None:
            return
        while not self._ended.is_set() and self._is_used():
            self._last = (self._clock(), reader.read())
            self._ended.wait(PERIOD_S)
        reader.close()
