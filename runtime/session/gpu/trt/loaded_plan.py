"""A TensorRT plan in memory (an ``ICudaEngine``), its header judged before, and what must live as long as it does.

``tensorrt`` and ``tensorrt_rtx`` are told apart by what they can do, never by version. Knows no CUDA and no cache.
"""

from __future__ import annotations

import logging
import mmap
from typing import Any

from runtime.errors import DeviceError, PlanError
from runtime.package.plan_sidecar import PlanFile, rebuild_command
from runtime.session.gpu.trt.api import Context, CudaEngine
from runtime.session.gpu.trt.kernel_file import KernelFile

_LOG = logging.getLogger("powertrain.tensorrt")
_HEAD_SUFFIX = ".selection.plan"


class LoadedPlan:
    """``runtime.session.gpu.trt.bound_run.OpenPlan``: a deserialized plan and the kernels that are compiled for it.

    The decoder's, or with ``is_head`` the selection head's, which lies in the same file.

    TensorRT for RTX compiles a kernel when a shape is first used, and captures CUDA graphs by itself; its kernels are
    kept beside the plan, valid for one GPU model, library version and driver. The classic library does neither.
    No context has memory of its own: whoever runs one gives it some.
    """

    def __init__(self, trt: Any, chosen: PlanFile, *, is_head: bool = False) -> None:  # noqa: ANN401
        self.compiles_per_shape = hasattr(trt, "CudaGraphStrategy")
        self._trt: Any = trt
        self._runtime: Any = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self._engine: Any = _deserialize(self._runtime, chosen, is_head=is_head)
        path = chosen.path.with_name(chosen.path.stem + _HEAD_SUFFIX) if is_head else chosen.path
        self._kernels = KernelFile(path)
        self._how: Any = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self._cache: Any = None
        if self.compiles_per_shape:
            self._how = self._runtime_config()

    @property
    def engine(self) -> CudaEngine:
        """The plan."""
        engine: CudaEngine = self._engine
        return engine

    def make_context(self) -> Context:
        """An execution context without memory for activations. Raises DeviceError."""
        context: Context | None = self._engine.create_execution_context(self._how)
        if context is None:
            raise DeviceError("TensorRT could not make an execution context; the GPU's memory may be too small")
        return context

    def save_kernels(self) -> None:
        """Keep what was compiled so far, if the package's folder can be written."""
        if self._cache is None:
            return
        compiled = self._cache.serialize()
        if compiled is None:
            _LOG.info("compiled kernels are not kept: the library gives none")
            return
        self._kernels.write(memoryview(compiled))

    def close(self) -> None:
        """Drop cache, plan and library, in that order, after every context was dropped."""
        self._how = self._cache = None
        self._engine = None
        self._runtime = None

    def _runtime_config(self) -> Any:  # noqa: ANN401
        """How contexts of the compiling library are made. Raises DeviceError when it refuses the settings."""
        trt, config = self._trt, self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(self._how)
        capture = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        config.cuda_graph_strategy = capture
        if config.cuda_graph_strategy != capture:  # a refusal is a False that an assignment does not show
            _LOG.warning(
                "TensorRT for RTX refused to capture CUDA graphs: decode steps launch their kernels one by one"
            )
        # At once and not in the background, so that the warm-up leaves nothing to compile and the file lacks nothing.
        strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        config.dynamic_shapes_kernel_specialization_strategy = strategy
        self._cache = config.create_runtime_cache()
        kept = self._kernels.read()
        if kept and not self._cache.deserialize(kept):
            _LOG.info("%s is for another GPU, driver or library; kernels are compiled anew", self._kernels.path.name)
        if not config.set_runtime_cache(self._cache):
            raise DeviceError("TensorRT refused a cache for the kernels that it compiles; run 'powertrain doctor'")
        return config


def _deserialize(runtime: Any, chosen: PlanFile, *, is_head: bool) -> Any:  # noqa: ANN401
    """The plan, from its mapped file: the library copies what it needs to the GPU, so no second copy is made here."""
    root, target = chosen.path.parent.parent, chosen.sidecar.key.target
    help_line = f"rebuild it with '{rebuild_command(root, target, chosen.sidecar.key)}'"
    try:
        with chosen.path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: the file is empty
        raise PlanError(f"plan {chosen.path.name} cannot be mapped ({error}); {help_line}") from error
    begin, end = _place(chosen, is_head=is_head)
    with mapped, memoryview(mapped) as whole, whole[begin:end] as data:
        if hasattr(runtime, "get_engine_validity"):
            verdict, diagnostics = runtime.get_engine_validity(bytes(data[: runtime.engine_header_size]))
            if verdict.name == "INVALID":
                raise PlanError(
                    f"plan {chosen.path.name} does not fit this GPU and driver (diagnostics {diagnostics}); {help_line}"
                )
        plan = runtime.deserialize_cuda_engine(data)
    if plan is None:
        raise PlanError(f"TensorRT refused plan {chosen.path.name}; {help_line}")
    return plan


def _place(chosen: PlanFile, *, is_head: bool) -> tuple[int, int]:
    """Where a plan begins and ends in its file."""
    sidecar = chosen.sidecar
    if is_head:
        return sidecar.plan_bytes - sidecar.selection_bytes, sidecar.plan_bytes
    return 0, sidecar.decoder_bytes
