"""Which of a package's plans can run here, and why the others cannot. Reads files; imports no TensorRT."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.errors import PlanError
from runtime.loading.gpu import Gpu
from runtime.package.manifest import Package
from runtime.package.plan_sidecar import (
    PlanFile,
    PlanKey,
    check_plan_bytes,
    graph_digests,
    plan_targets,
    read_sidecar,
    rebuild_command,
)

_AMPERE = (8, 0)


@dataclass(frozen=True, slots=True)
class RunningLibrary:
    """The TensorRT that would run a plan: ``tensorrt`` or ``tensorrt_rtx``, and its version."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class PlanVerdict:
    """A plan of the package. ``problem`` is empty when it can run, else one line that ends in what to do."""

    target: str
    plan: PlanFile | None
    problem: str


def judge_plans(package: Package, library: RunningLibrary, gpu: Gpu) -> list[PlanVerdict]:
    """A verdict for every plan in the package, the usable ones first. Reads and hashes the usable ones' bytes."""
    verdicts = []
    for target in plan_targets(package.root):
        plan = None
        try:
            plan = read_sidecar(package.root, target)
            _check(package, plan.sidecar.key, library, gpu)
            check_plan_bytes(plan)
            verdicts.append(PlanVerdict(target, plan, ""))
        except PlanError as error:
            verdicts.append(PlanVerdict(target, plan, str(error)))
    return sorted(verdicts, key=lambda verdict: bool(verdict.problem))


def choose_plan(package: Package, library: RunningLibrary, gpu: Gpu) -> PlanFile:
    """The plan to run. Raises PlanError saying what is wrong with each, or that there is none."""
    graph_digests(package)
    verdicts = judge_plans(package, library, gpu)
    for verdict in verdicts:
        if verdict.plan is not None and not verdict.problem:
            return verdict.plan
    if not verdicts:
        target = gpu.sm if library.name == "tensorrt_rtx" else "current"
        raise PlanError(
            f"package {package.manifest.name!r} holds no plan; build one with '{rebuild_command(package.root, target)}'"
        )
    raise PlanError(" | ".join(verdict.problem for verdict in verdicts))


def _check(package: Package, key: PlanKey, library: RunningLibrary, gpu: Gpu) -> None:
    """Raise PlanError at the first difference between what a plan was built for and what is here."""
    target = gpu.sm if library.name == "tensorrt_rtx" else "current"
    rebuild = f"build one with '{rebuild_command(package.root, target)}'"
    if (key.library, key.library_version) != (library.name, library.version):
        raise PlanError(
            f"plan {key.target} was built by {key.library} {key.library_version}, "
            f"this machine runs {library.name} {library.version}; {rebuild}"
        )
    if not _runs_on(key, gpu):
        raise PlanError(
            f"plan {key.target} was built for compute capability {key.compute_capability}, {gpu.name} has "
            f"{gpu.compute_capability}; {rebuild}"
        )
    digests = graph_digests(package)
    for name, digest in digests.items():
        built = key.graph_sha256.get(name, "nothing")
        if built != digest:
            raise PlanError(
                f"plan {key.target} was built from {name} {built[:12]}, the package holds {digest[:12]}; {rebuild}"
            )


def _runs_on(key: PlanKey, gpu: Gpu) -> bool:
    if key.compute_capability == gpu.compute_capability:
        return True
    major, minor = (int(part) for part in gpu.compute_capability.split("."))
    return key.hardware_compatibility == "ampere_plus" and (major, minor) >= _AMPERE
