"""Opens a session on a TensorRT engine: deserializes it, makes contexts, keeps what the library compiles.

Sidecar and bytes were judged before TensorRT sees them (``runtime.engine_choice``); here TensorRT judges the header
before the plan. The libraries are told apart by what they can do, never by version.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import Any

from runtime.cuda_memory import CudaDevice
from runtime.device import Device, DeviceError
from runtime.engine_sidecar import EngineError, EngineFile, rebuild_command
from runtime.manifest import ModelShape
from runtime.session import Session
from runtime.static_session import StaticSession
from runtime.trt_runner import TrtRunner

_LOG = logging.getLogger("powertrain.tensorrt")
_KERNELS_SUFFIX = ".kernels"


def open_trt_session(engine: EngineFile, shape: ModelShape, gpu_index: int, num_slots: int) -> Session:
    """A session on an engine that ``runtime.engine_choice`` found fit. Raises EngineError or DeviceError.

    Use it on this thread only. Its numbers are not proven: see ``runtime.self_test``.
    """
    library = engine.sidecar.key.library
    trt: Any = importlib.import_module(library)
    device = CudaDevice(gpu_index)
    try:
        loaded = _LoadedEngine(trt, engine)
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


class _LoadedEngine:
    """A deserialized engine, what it needs to stay alive, and the kernels that TensorRT for RTX compiles for it.

    That library compiles when an engine is first used and captures CUDA graphs by itself; its kernels are kept beside
    the engine, valid for one GPU model, library version and driver. The classic one does neither.
    """

    def __init__(self, trt: Any, chosen: EngineFile) -> None:  # noqa: ANN401 - a library known at run time only
        self.captures_by_itself = hasattr(trt, "CudaGraphStrategy")
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self.engine = _deserialize(self._runtime, chosen)
        self._kernels = chosen.path.with_name(chosen.path.name + _KERNELS_SUFFIX)
        # Memory for the active profile only: decode contexts, of which there may be many, need a fraction of prefill's.
        self._allocation = trt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
        self._config: Any = None
        self._cache: Any = None
        if self.captures_by_itself:
            self._config = self.engine.create_runtime_config()
            self._config.set_execution_context_allocation_strategy(self._allocation)
            self._config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            self._cache = self._config.create_runtime_cache()
            self._read_kernels()
            self._config.set_runtime_cache(self._cache)

    def make_context(self) -> Any:  # noqa: ANN401
        """An execution context. Raises DeviceError."""
        how = self._allocation if self._config is None else self._config
        context = self.engine.create_execution_context(how)
        if context is None:
            raise DeviceError("TensorRT could not make an execution context; the GPU's memory may be too small")
        return context

    def save_kernels(self) -> None:
        """Keep what was compiled so far, if the package's folder can be written."""
        if self._cache is None:
            return
        partial = self._kernels.with_name("." + self._kernels.name)
        try:
            partial.write_bytes(bytes(self._cache.serialize()))
            partial.replace(self._kernels)
        except OSError as error:
            _LOG.info("compiled kernels are not kept: %s (%s)", self._kernels.name, error.strerror)

    def _read_kernels(self) -> None:
        path = self._kernels
        if path.is_file() and not path.is_symlink() and not self._cache.deserialize(path.read_bytes()):
            _LOG.info("%s is for another GPU, driver or library; kernels are compiled anew", path.name)


def _deserialize(runtime: Any, chosen: EngineFile) -> Any:  # noqa: ANN401
    plan = chosen.path.read_bytes()
    root, target = chosen.path.parent.parent, chosen.sidecar.key.target
    help_line = f"rebuild it with '{rebuild_command(root, target)}'"
    if hasattr(runtime, "get_engine_validity"):
        verdict, diagnostics = runtime.get_engine_validity(plan[: runtime.engine_header_size])
        if verdict.name == "INVALID":
            raise EngineError(
                f"engine {chosen.path.name} does not fit this GPU and driver (diagnostics {diagnostics}); {help_line}"
            )
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineError(f"TensorRT refused engine {chosen.path.name}; {help_line}")
    return engine
