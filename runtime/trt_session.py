"""Opens a session on a TensorRT engine that ``runtime.engine_choice`` found fit.

Knows what a session is made of; what TensorRT does is ``runtime.trt_engine``'s and ``runtime.trt_runner``'s.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from runtime.device import Device
from runtime.engine_sidecar import EngineFile
from runtime.manifest import ModelShape
from runtime.session import Session
from runtime.static_session import StaticSession
from runtime.trt_engine import LoadedEngine
from runtime.trt_runner import TrtRunner


def open_trt_session(engine: EngineFile, shape: ModelShape, device: Device, num_slots: int) -> Session:
    """A session that owns ``device`` and closes it, also on failure. Raises EngineError or DeviceError.

    Its numbers are not proven: see ``runtime.self_test``.
    """
    library = engine.sidecar.key.library
    trt: Any = importlib.import_module(library)
    try:
        loaded = LoadedEngine(trt, engine)
        records = not loaded.captures_by_itself
        runner = TrtRunner(loaded.engine, loaded.make_context, device, shape, records_decode=records)
        return TrtSession(library, runner, device, shape, num_slots, before_close=loaded.save_kernels)
    except BaseException:
        device.close()
        raise


class TrtSession(StaticSession):
    """A static session that keeps, when it closes, the kernels that were compiled while it ran."""

    def __init__(
        self,
        backend: str,
        runner: TrtRunner,
        device: Device,
        shape: ModelShape,
        num_slots: int,
        *,
        before_close: Callable[[], None],
    ) -> None:
        super().__init__(backend, runner, device, shape, num_slots)
        self._before_close = before_close

    def close(self) -> None:
        """Save, then release."""
        self._before_close()
        super().close()
