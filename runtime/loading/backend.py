"""Which backend serves a package on this machine: probed in processes of their own, chosen by rule, explained.

A machine without a GPU is never asked to load a GPU library, and a GPU library that crashes takes its own process
down, not the server. Knows what each backend needs; loads none of them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import msgspec
from msgspec import UnsetType

from runtime.errors import BackendError, PowertrainError
from runtime.loading.backend_probe import ProbeResult
from runtime.loading.gpu import Gpu, GpuReport, find_gpus
from runtime.loading.plan_choice import RunningLibrary, choose_plan
from runtime.package import dtypes
from runtime.package.manifest import ORT_GRAPH, Package
from runtime.package.plan_sidecar import PlanFile, graph_digests

_PROBE_TIMEOUT_S = 120.0
_HALF_TYPES = {dtypes.FLOAT16.name, dtypes.BFLOAT16.name}


class Backend(StrEnum):
    """What runs the model. The last two are ONNX Runtime's providers, which compile when they load; never automatic."""

    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"
    ORT_TENSORRT = "ort-tensorrt"
    ORT_TENSORRT_RTX = "ort-tensorrt-rtx"

    @property
    def module(self) -> str:
        """Name that ``runtime.loading.backend_probe`` knows it by; for the TensorRTs also the library's import name."""
        return self.value.replace("-", "_")


AUTO = "auto"
_BY_PREFERENCE = (Backend.TENSORRT, Backend.TENSORRT_RTX, Backend.CUDA)

Probe = Callable[[Backend], ProbeResult]


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """The backend, a line per backend decided, the GPU it runs on (None: the CPU) and the plan (TensorRT's only)."""

    backend: Backend
    reasons: tuple[str, ...]
    gpu: Gpu | None = None
    plan: PlanFile | None = None

    def explain(self) -> str:
        """One line for the log."""
        return f"backend {self.backend}: {'; '.join(self.reasons)}"


ON_CPU = BackendChoice(Backend.CPU, ("the default",))


def probe_in_subprocess(backend: Backend) -> ProbeResult:
    """Run ``runtime.loading.backend_probe`` for a backend; a crash or a hang is a problem like any other."""
    command = [sys.executable, "-P", "-m", "runtime.loading.backend_probe", backend.module]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_PROBE_TIMEOUT_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        return ProbeResult(problem=f"its libraries hang for {_PROBE_TIMEOUT_S:.0f} s", fix="install them again")
    if done.returncode != 0:
        return ProbeResult(problem=f"its libraries crash (exit status {done.returncode})", fix="install them again")
    try:
        return msgspec.json.decode(done.stdout.splitlines()[-1], type=ProbeResult)
    except (msgspec.MsgspecError, IndexError):
        return ProbeResult(problem="its probe printed nonsense", fix="install its libraries again")


def backend_choices(
    package: Package, wanted: str, *, probe: Probe = probe_in_subprocess, gpus: Callable[[], GpuReport] = find_gpus
) -> Iterator[BackendChoice]:
    """The backends for ``wanted``, best first: those that ``auto`` takes, or one by name.

    Asking for the next one says that the last did not load; only then is the next probed. ``auto`` takes each of
    TensorRT, TensorRT for RTX and CUDA whose libraries work and for which the package holds what it needs, and then the
    CPU. Raises BackendError when the one named cannot serve.
    """
    if wanted == Backend.CPU:
        yield BackendChoice(Backend.CPU, ("asked for",))
        return
    if wanted != AUTO and wanted not in set(Backend):
        known = ", ".join([AUTO, *Backend])
        raise BackendError(f"backend {wanted!r} is unknown; choose one of {known}")
    report = gpus()
    if not report.gpus and wanted != AUTO:
        raise BackendError(f"backend {wanted} needs a GPU: {report.problem}; {report.fix}, or serve with --backend cpu")
    reasons = [] if report.gpus else [report.problem]
    candidates = _BY_PREFERENCE if wanted == AUTO else (Backend(wanted),)
    for backend in candidates if report.gpus else ():
        gpu, result = report.gpus[0], probe(backend)
        try:
            plan = _plan_for(package, backend, result, gpu)
        except PowertrainError as error:
            reasons.append(f"no {backend}: {error}")
            continue
        works = f"{backend} {result.version} works on {gpu.name}"
        yield BackendChoice(backend, (*reasons, works), gpu, plan)
        if wanted != AUTO:
            return
        reasons.append(f"no {backend}: it did not load")
    if wanted != AUTO:
        raise BackendError(f"backend {wanted} cannot serve: {reasons[0].removeprefix(f'no {wanted}: ')}")
    yield BackendChoice(Backend.CPU, tuple(reasons))


def _plan_for(package: Package, backend: Backend, result: ProbeResult, gpu: Gpu) -> PlanFile | None:
    """The plan to run; None for ONNX Runtime, which runs a graph. Raises PowertrainError when nothing can."""
    if result.problem:
        raise BackendError(f"{result.problem}; {result.fix}")
    if not isinstance(package.manifest.adapters, UnsetType):
        raise BackendError(
            "the package's graph takes adapters at run time, which needs the CPU; for a GPU merge the adapter with "
            "'powertrain export MODEL --adapter FOLDER'"
        )
    if backend in {Backend.ORT_TENSORRT, Backend.ORT_TENSORRT_RTX}:
        graph_digests(package)
        return None
    if backend is not Backend.CUDA:
        return choose_plan(package, RunningLibrary(backend.module, result.version), gpu)
    graph = package.manifest.graphs.get(ORT_GRAPH)
    if graph is None:
        raise BackendError("the package has no graph for ONNX Runtime; export it with --precision fp16 --dialect ort")
    if graph.kv_dtype not in _HALF_TYPES:
        raise BackendError("the package's graph is for the CPU; export it with --precision fp16")
    return None
