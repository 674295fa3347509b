"""From the words of ``--target`` to GPUs to build for, and to the library that can. Knows no graph."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from runtime.errors import PlanError
from runtime.install import backend_line
from runtime.loading.gpu import GpuReport, find_gpus

from export.plan.library import Library, LibraryName, load_library

CURRENT = "current"

_SM = re.compile(r"sm(\d{2,3})")


@dataclass(frozen=True, slots=True)
class Target:
    """One plan to build. ``name`` is the plan's file name; ``sm`` such as ``sm89``; ``driver`` empty if unseen."""

    name: str
    sm: str
    library: Library
    driver: str = ""

    @property
    def compute_capability(self) -> str:
        """``8.9`` for ``sm89``."""
        return f"{self.sm[2:-1]}.{self.sm[-1]}"

    @property
    def ahead(self) -> bool:
        """Whether the compute capability is named to the builder rather than read from the GPU."""
        return self.library.builds_ahead


def parse_targets(
    words: str,
    library: LibraryName | None = None,
    load: Callable[[LibraryName], Library] = load_library,
    gpus: Callable[[], GpuReport] = find_gpus,
) -> list[Target]:
    """``sm80,sm89`` or ``current``, for TensorRT for RTX or whichever library is named. Raises PlanError.

    ``current`` prefers the classic library, whose plans are tuned on the GPU itself; named targets need RTX.
    """
    names = list(dict.fromkeys(word.strip().lower() for word in words.split(",") if word.strip()))
    if not names:
        raise PlanError("no target was given; name GPUs such as sm89, or 'current' for the one in this machine")
    return [_current(library, load, gpus()) if name == CURRENT else _named(name, library, load) for name in names]


def _named(name: str, library: LibraryName | None, load: Callable[[LibraryName], Library]) -> Target:
    if not _SM.fullmatch(name):
        raise PlanError(f"target {name!r} is no GPU; write sm and the compute capability, such as sm89, or 'current'")
    if library == "tensorrt":
        raise PlanError(f"tensorrt builds only for the GPU in the machine; use --target current for {name}")
    found = load("tensorrt_rtx")
    if name not in found.ahead_targets():
        raise PlanError(
            f"{found.name} {found.version} cannot build for {name}, it knows {', '.join(found.ahead_targets())}; "
            "on that GPU use --target current with the tensorrt package"
        )
    return Target(name, name, found)


def _current(library: LibraryName | None, load: Callable[[LibraryName], Library], report: GpuReport) -> Target:
    if not report.gpus:
        raise PlanError(
            f"target 'current' needs a GPU in this machine: {report.problem}; {report.fix}, "
            "or name targets such as sm89 to build without one"
        )
    gpu = report.gpus[0]
    found = load(library) if library else _preferred(load)
    if not found.builds_ahead:
        return Target(f"{CURRENT}-{gpu.sm}", gpu.sm, found, gpu.driver)
    if gpu.sm not in found.ahead_targets():
        raise PlanError(
            f"{found.name} {found.version} cannot build for {gpu.name} ({gpu.sm}), it knows "
            f"{', '.join(found.ahead_targets())}; install the tensorrt package: {backend_line('tensorrt')}"
        )
    return Target(gpu.sm, gpu.sm, found, gpu.driver)


def _preferred(load: Callable[[LibraryName], Library]) -> Library:
    try:
        return load("tensorrt")
    except PlanError:
        return load("tensorrt_rtx")
