"""Which of a package's engines can run here, and why the others cannot. Reads files; imports no TensorRT."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.engine_sidecar import (
    EngineError,
    EngineFile,
    EngineKey,
    check_plan,
    engine_targets,
    graph_digests,
    read_sidecar,
    rebuild_command,
)
from runtime.gpu import Gpu
from runtime.manifest import Package

_AMPERE = (8, 0)


@dataclass(frozen=True, slots=True)
class RunningLibrary:
    """The TensorRT that would run an engine: ``tensorrt`` or ``tensorrt_rtx``, and its version."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class EngineVerdict:
    """An engine of the package. ``problem`` is empty when it can run, else one line that ends in what to do."""

    target: str
    engine: EngineFile | None
    problem: str


def judge_engines(package: Package, library: RunningLibrary, gpu: Gpu) -> list[EngineVerdict]:
    """A verdict for every engine in the package, the usable ones first. Reads and hashes the usable ones' bytes."""
    verdicts = []
    for target in engine_targets(package.root):
        engine = None
        try:
            engine = read_sidecar(package.root, target)
            _check(package, engine.sidecar.key, library, gpu)
            check_plan(engine)
            verdicts.append(EngineVerdict(target, engine, ""))
        except EngineError as error:
            verdicts.append(EngineVerdict(target, engine, str(error)))
    return sorted(verdicts, key=lambda verdict: bool(verdict.problem))


def choose_engine(package: Package, library: RunningLibrary, gpu: Gpu) -> EngineFile:
    """The engine to run. Raises EngineError saying what is wrong with each, or that there is none."""
    graph_digests(package)
    verdicts = judge_engines(package, library, gpu)
    for verdict in verdicts:
        if verdict.engine is not None and not verdict.problem:
            return verdict.engine
    if not verdicts:
        target = gpu.sm if library.name == "tensorrt_rtx" else "current"
        raise EngineError(
            f"package {package.manifest.name!r} holds no engine; "
            f"build one with '{rebuild_command(package.root, target)}'"
        )
    raise EngineError(" | ".join(verdict.problem for verdict in verdicts))


def _check(package: Package, key: EngineKey, library: RunningLibrary, gpu: Gpu) -> None:
    """Raise EngineError at the first difference between what an engine was built for and what is here."""
    target = gpu.sm if library.name == "tensorrt_rtx" else "current"
    rebuild = f"build one with '{rebuild_command(package.root, target)}'"
    if (key.library, key.library_version) != (library.name, library.version):
        raise EngineError(
            f"engine {key.target} was built by {key.library} {key.library_version}, "
            f"this machine runs {library.name} {library.version}; {rebuild}"
        )
    if not _runs_on(key, gpu):
        raise EngineError(
            f"engine {key.target} was built for compute capability {key.compute_capability}, {gpu.name} has "
            f"{gpu.compute_capability}; {rebuild}"
        )
    digests = graph_digests(package)
    for name, digest in digests.items():
        built = key.graph_sha256.get(name, "nothing")
        if built != digest:
            raise EngineError(
                f"engine {key.target} was built from {name} {built[:12]}, the package holds {digest[:12]}; {rebuild}"
            )


def _runs_on(key: EngineKey, gpu: Gpu) -> bool:
    if key.compute_capability == gpu.compute_capability:
        return True
    major, minor = (int(part) for part in gpu.compute_capability.split("."))
    return key.hardware_compatibility == "ampere_plus" and (major, minor) >= _AMPERE
