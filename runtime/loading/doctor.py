"""What this machine can run, what is missing, and the exact line that fixes it. Reads and probes; changes nothing."""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from runtime.errors import PackageError
from runtime.install import has_runtime, install_line, runtime_line
from runtime.loading.backend import Backend, Probe, probe_in_subprocess
from runtime.loading.gpu import Gpu, GpuReport, find_gpus
from runtime.loading.plan_choice import RunningLibrary, judge_plans
from runtime.package.golden import lacks_golden
from runtime.package.home import as_typed
from runtime.package.manifest import OPTIMUM_GRAPH, ORT_GRAPH, Package, load_package
from runtime.package.plan_sidecar import TRT_GRAPH, plan_targets
from runtime.session.kv_budget import available_memory_bytes

State = Literal["ok", "missing", "problem"]

_GIB = 2**30
_CPUINFO = Path("/proc/cpuinfo")
_PCI_DEVICES = Path("/sys/bus/pci/devices")
_NVIDIA = "0x10de"
_AUTOMATIC = (Backend.CUDA, Backend.TENSORRT, Backend.TENSORRT_RTX)
_BY_NAME = (Backend.ORT_TENSORRT, Backend.ORT_TENSORRT_RTX)
_OF_PLANS = (Backend.TENSORRT, Backend.TENSORRT_RTX)
_CPU_FEATURES = {"avx2": "AVX2", "avx512_vnni": "AVX-512 VNNI", "avx_vnni": "AVX-VNNI", "amx_int8": "AMX"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. ``fix`` is a command, or empty when nothing needs fixing or nothing can be done."""

    topic: str
    state: State
    text: str
    fix: str = ""


def examine(
    packages: list[Path], *, probe: Probe = probe_in_subprocess, gpus: Callable[[], GpuReport] = find_gpus
) -> list[Finding]:
    """Findings about the processor, the GPU, each backend's libraries, and what of each package can run here."""
    report = gpus()
    findings = [_cpu(), *_gpus(report), _builder()]
    backends, libraries = _backends(probe, has_gpu=bool(report.gpus))
    findings += backends
    gpu = report.gpus[0] if report.gpus else None
    for root in packages:
        findings += _package(root, libraries, gpu)
    return findings


def _cpu() -> Finding:
    flags = set()
    if _CPUINFO.is_file():
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
        flags = {word for line in lines if line.startswith("flags") for word in line.split()}
    known = [name for flag, name in _CPU_FEATURES.items() if flag in flags] or [
        "no vector features that are known here"
    ]
    cores, memory = len(os.sched_getaffinity(0)), available_memory_bytes() / _GIB
    text = f"{cores} cores, {', '.join(known)}, {memory:.1f} GiB of memory available"
    if not has_runtime():
        return Finding("cpu", "problem", f"{text}; ONNX Runtime is not installed, so nothing runs", runtime_line())
    return Finding("cpu", "ok", text)


def _gpus(report: GpuReport) -> list[Finding]:
    if not report.gpus:
        if not _has_nvidia_device():
            return [Finding("gpu", "missing", "no NVIDIA GPU in this machine")]
        return [Finding("gpu", "missing", report.problem, report.fix)]
    beside = [Finding("gpu", "problem", report.problem, report.fix)] if report.problem else []
    return [Finding("gpu", "ok", _described(gpu)) for gpu in report.gpus] + beside


def _described(gpu: Gpu) -> str:
    total = (
        f"{gpu.memory_bytes / _GIB:.1f} GiB of memory" if gpu.memory_bytes else "memory that nobody tells the size of"
    )
    if gpu.free_bytes:
        total = f"{gpu.free_bytes / _GIB:.1f} of {gpu.memory_bytes / _GIB:.1f} GiB free"
    return (
        f"{gpu.index}: {gpu.name}, {gpu.uuid}, compute capability {gpu.compute_capability} ({gpu.sm}), "
        f"driver {gpu.driver or 'unseen'}, {total}"
    )


def _has_nvidia_device() -> bool:
    """Whether a card of NVIDIA's is on the bus; True where nobody can tell."""
    vendors = list(_PCI_DEVICES.glob("*/vendor"))
    return not vendors or any(path.read_text(encoding="ascii").strip() == _NVIDIA for path in vendors)


def _builder() -> Finding:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        text = "TensorRT plans for other machines cannot be built: tensorrt-rtx is not installed"
        fits = platform.system() == "Linux" and platform.machine() == "x86_64"
        return Finding("builder", "missing", text, install_line("tensorrt-rtx", "tensorrt-rtx") if fits else "")
    version = metadata.version("tensorrt-rtx")
    return Finding("builder", "ok", f"tensorrt-rtx {version} builds plans for other machines, no GPU needed")


def _backends(probe: Probe, *, has_gpu: bool) -> tuple[list[Finding], dict[Backend, str]]:
    """A finding per library for GPUs, and the versions of those that work. One that works makes others optional.

    Those that only serve when they are named are looked at where they could.
    """
    results = {backend: probe(backend) for backend in (*_AUTOMATIC, *(_BY_NAME if has_gpu else ()))}
    working = {backend: result.version for backend, result in results.items() if not result.problem}
    findings = []
    for backend, result in results.items():
        if backend in working:
            findings.append(Finding(backend, "ok", f"{backend.module} {result.version} works"))
        elif has_gpu:
            state: State = "missing" if working or backend in _BY_NAME else "problem"
            findings.append(Finding(backend, state, result.problem, result.fix))
        else:
            findings.append(Finding(backend, "missing", f"{result.problem}; of no use without a GPU"))
    return findings, working


def _package(root: Path, libraries: dict[Backend, str], gpu: Gpu | None) -> list[Finding]:
    topic = root.name
    try:
        package = load_package(root)
    except PackageError as error:
        return [Finding(topic, "problem", str(error), f"powertrain export {_model(root)}")]
    findings = [_graph(package, gpu)]
    if lacks_golden(package.manifest):
        text = "holds no golden rows, without which no GPU serves it; it was made before there were any"
        state: State = "missing" if gpu is None else "problem"
        findings.append(Finding(topic, state, text, f"powertrain export {_model(root)} -o {as_typed(root)}"))
    if gpu is None and not plan_targets(root):
        return findings  # TensorRT is nothing to this machine
    if TRT_GRAPH not in package.manifest.graphs:
        text = "no graph for TensorRT, so no plan can be built"
        return [*findings, Finding(topic, "missing", text, "powertrain export MODEL --dialect ort,trt")]
    return findings + _plans(package, libraries, gpu)


def _model(root: Path) -> str:
    """What to export for a package: the recipe beside it, or what the reader knows it was made from."""
    recipe = root.with_name(f"{root.name}.toml")
    return str(recipe) if recipe.is_file() else "MODEL"


def _graph(package: Package, gpu: Gpu | None) -> Finding:
    """Whether ONNX Runtime can run the package here: its own graph, or the one that Optimum wrote."""
    graphs, topic = package.manifest.graphs, package.root.name
    graph = graphs.get(ORT_GRAPH) or graphs.get(OPTIMUM_GRAPH)
    size = sum(info.size for info in package.manifest.files.values()) / 2**20
    writer = ", written by Optimum" if OPTIMUM_GRAPH in graphs else ""
    what, serve = f"whole, {size:.0f} MiB{writer}", f"powertrain serve {as_typed(package.root)}"
    if graph is not None and "cpu" in graph.providers:
        return Finding(topic, "ok", f"{what}; runs on the CPU", serve)
    form = "the graph for TensorRT alone" if graph is None else graph.kv_dtype
    if gpu is not None:
        return Finding(topic, "ok", f"{what}; {form}, runs on a GPU only", serve)
    text = f"{what}; {form}, which runs on a GPU only, and there is none"
    return Finding(topic, "problem", text, "powertrain export MODEL --precision int8")


def _plans(package: Package, libraries: dict[Backend, str], gpu: Gpu | None) -> list[Finding]:
    topic, targets = package.root.name, plan_targets(package.root)
    if not targets:
        target = gpu.sm if gpu else "current"
        return [
            Finding(topic, "missing", "no plan built", f"powertrain engine {as_typed(package.root)} --target {target}")
        ]
    running = [
        RunningLibrary(backend.module, version) for backend, version in libraries.items() if backend in _OF_PLANS
    ]
    if gpu is None or not running:
        why = "there is no GPU" if gpu is None else "no TensorRT library works"
        return [Finding(topic, "missing", f"plan {target} cannot run here: {why}") for target in targets]
    findings = {}
    for library in running:
        for verdict in judge_plans(package, library, gpu):
            text, _, fix = verdict.problem.partition("; ")
            if not verdict.problem:
                findings[verdict.target] = Finding(topic, "ok", f"plan {verdict.target} runs on {gpu.name}")
            findings.setdefault(verdict.target, Finding(topic, "problem", text, fix))
    return list(findings.values())
