"""What a build will need, refused in numbers before it starts rather than by the kernel's killer in the middle."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import PlanError
from runtime.session.kv_budget import available_memory_bytes

_BASE_BYTES = 400 * 2**20
_PEAK_PER_GRAPH_BYTE = 4.5
"""Resident peak over bytes of the graph's files, above the base: 3.7 to 4.4 were measured with TensorRT for RTX 1.7.1
for a model of 135 million parameters in fp16, int8 and int4."""
_PLAN_PER_GRAPH_BYTE = 1.5
_PLAN_BASE_BYTES = 32 * 2**20

_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes of memory at the build's peak, and of disk for its plan."""

    memory_bytes: int
    disk_bytes: int


def estimate_build(graph_bytes: int) -> Estimate:
    """From the size of the graph's files: weights are held as parsed, as optimized and as serialized."""
    return Estimate(
        memory_bytes=_BASE_BYTES + int(graph_bytes * _PEAK_PER_GRAPH_BYTE),
        disk_bytes=_PLAN_BASE_BYTES + int(graph_bytes * _PLAN_PER_GRAPH_BYTE),
    )


def check_room(estimate: Estimate, folder: Path, available_bytes: int | None = None) -> None:
    """Raise PlanError, with the numbers, unless memory and disk have room. ``available_bytes`` None: ask Linux."""
    available = available_memory_bytes() if available_bytes is None else available_bytes
    if estimate.memory_bytes > available:
        raise PlanError(
            f"the build needs about {estimate.memory_bytes / _GIB:.1f} GiB of memory, {available / _GIB:.1f} GiB are "
            "available; build on a larger machine (ahead-of-time builds need no GPU), or pass --force to try"
        )
    free = shutil.disk_usage(folder).free
    if estimate.disk_bytes > free:
        raise PlanError(
            f"the plan needs about {estimate.disk_bytes / _GIB:.1f} GiB of disk, {free / _GIB:.1f} GiB are free; "
            "make room, or pass --force to try"
        )
