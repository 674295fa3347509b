"""What this machine can run, what is missing, and the exact line that fixes it. Reads and probes; changes nothing."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from runtime.errors import PackageError
from runtime.install import has_runtime, runtime_line
from runtime.loading.backend import Backend, Probe, probe_in_subprocess
from runtime.loading.gpu import Gpu, GpuReport, find_gpus
from runtime.loading.plan_choice import RunningLibrary, judge_plans
from runtime.package.manifest import ORT_GRAPH, Package, load_package
from runtime.package.plan_sidecar import TRT_GRAPH, plan_targets
from runtime.session.kv_budget import available_memory_bytes

State = Literal["ok", "missing", "problem"]

_GIB = 2**30
_CPUINFO = Path("/proc/cpuinfo")
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
    libraries: dict[Backend, str] = {}
    for backend in (Backend.CUDA, Backend.TENSORRT, Backend.TENSORRT_RTX):
        finding, version = _backend(backend, probe, has_gpu=bool(report.gpus))
        findings.append(finding)
        if version:
            libraries[backend] = version
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
        return [Finding("gpu", "missing", report.problem, report.fix)]
    return [
        Finding(
            "gpu",
            "ok",
            f"{gpu.name}, compute capability {gpu.compute_capability} ({gpu.sm}), driver {gpu.driver}, "
            f"{gpu.free_bytes / _GIB:.1f} of {gpu.memory_bytes / _GIB:.1f} GiB free",
        )
        for gpu in report.gpus
    ]


def _builder() -> Finding:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        text = "plans cannot be built without a GPU: tensorrt-rtx is not installed"
        return Finding("builder", "missing", text, "pip install 'powertrain[tensorrt-rtx]'")
    version = metadata.version("tensorrt-rtx")
    return Finding("builder", "ok", f"tensorrt-rtx {version} builds plans for other machines, no GPU needed")


def _backend(backend: Backend, probe: Probe, *, has_gpu: bool) -> tuple[Finding, str]:
    """A finding, and the version of the library if it works."""
    result = probe(backend)
    if not result.problem:
        return Finding(backend, "ok", f"{backend.module} {result.version} works"), result.version
    if has_gpu:
        return Finding(backend, "problem", result.problem, result.fix), ""
    return Finding(backend, "missing", f"{result.problem}; of no use without a GPU"), ""


def _package(root: Path, libraries: dict[Backend, str], gpu: Gpu | None) -> list[Finding]:
    topic = root.name
    try:
        package = load_package(root)
    except PackageError as error:
        return [Finding(topic, "problem", str(error), f"powertrain export {root}.toml")]
    graphs = package.manifest.graphs
    size = sum(info.size for info in package.manifest.files.values()) / 2**20
    if ORT_GRAPH in graphs:
        findings = [Finding(topic, "ok", f"whole, {size:.0f} MiB; runs on the CPU", f"powertrain serve {root}")]
    else:
        findings = [Finding(topic, "problem", "no graph for the CPU", "powertrain export SOURCE --dialect ort,trt")]
    if TRT_GRAPH not in graphs:
        text = "no graph for TensorRT, so no plan can be built"
        return [*findings, Finding(topic, "missing", text, "powertrain export SOURCE --dialect ort,trt")]
    return findings + _plans(package, libraries, gpu)


def _plans(package: Package, libraries: dict[Backend, str], gpu: Gpu | None) -> list[Finding]:
    topic, targets = package.root.name, plan_targets(package.root)
    if not targets:
        target = gpu.sm if gpu else "sm89"
        return [Finding(topic, "missing", "no plan built", f"powertrain engine {package.root} --target {target}")]
    running = [RunningLibrary(backend.module, version) for backend, version in libraries.items() if backend != "cuda"]
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
