"""A TensorRT plan in memory (an ``ICudaEngine``), its header judged before, with what it compiles while it runs.

``tensorrt`` and ``tensorrt_rtx`` are told apart by what they can do, never by version. Knows no CUDA and no cache.
"""

from __future__ import annotations

import logging
from typing import Any

from runtime.errors import DeviceError, PlanError
from runtime.package.plan_sidecar import PlanFile, rebuild_command

_LOG = logging.getLogger("powertrain.tensorrt")
_KERNELS_SUFFIX = ".kernels"


class LoadedPlan:
    """A deserialized plan, what it needs to stay alive, and the kernels that TensorRT for RTX compiles for it.

    That library compiles when a plan is first used and captures CUDA graphs by itself; its kernels are kept beside
    the plan, valid for one GPU model, library version and driver. The classic one does neither.
    """

    def __init__(self, trt: Any, chosen: PlanFile) -> None:  # noqa: ANN401 - a library known at run time only
        self.captures_by_itself = hasattr(trt, "CudaGraphStrategy")
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self.plan = _deserialize(self._runtime, chosen)
        self._kernels = chosen.path.with_name(chosen.path.name + _KERNELS_SUFFIX)
        # Memory for the active profile only: decode contexts, of which there may be many, need a fraction of prefill's.
        self._allocation = trt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
        self._config: Any = None
        self._cache: Any = None
        if self.captures_by_itself:
            self._config = self.plan.create_runtime_config()
            self._config.set_execution_context_allocation_strategy(self._allocation)
            self._config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            self._cache = self._config.create_runtime_cache()
            self._read_kernels()
            self._config.set_runtime_cache(self._cache)

    def make_context(self) -> Any:  # noqa: ANN401
        """An execution context. Raises DeviceError."""
        how = self._allocation if self._config is None else self._config
        context = self.plan.create_execution_context(how)
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


def _deserialize(runtime: Any, chosen: PlanFile) -> Any:  # noqa: ANN401
    data = chosen.path.read_bytes()
    root, target = chosen.path.parent.parent, chosen.sidecar.key.target
    help_line = f"rebuild it with '{rebuild_command(root, target)}'"
    if hasattr(runtime, "get_engine_validity"):
        verdict, diagnostics = runtime.get_engine_validity(data[: runtime.engine_header_size])
        if verdict.name == "INVALID":
            raise PlanError(
                f"plan {chosen.path.name} does not fit this GPU and driver (diagnostics {diagnostics}); {help_line}"
            )
    plan = runtime.deserialize_cuda_engine(data)
    if plan is None:
        raise PlanError(f"TensorRT refused plan {chosen.path.name}; {help_line}")
    return plan
