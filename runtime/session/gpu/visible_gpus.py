"""Which GPUs CUDA shows to this process, and how much memory one has. CUDA's order and its UUIDs; no other tool's.

``CUDA_VISIBLE_DEVICES`` is CUDA's own matter: what it hides is not here, and its order is this order. Listing makes no
context on any GPU; ``memory_bytes`` makes one on the thread's current GPU. Imported only where CUDA may be loaded.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from cuda.bindings import runtime as cudart

from runtime.errors import DeviceError
from runtime.session.cuda_errors import NO_DEVICE, device_failure
from runtime.session.gpu.gpu_uuid import bare_uuid
from runtime.session.kv_budget import available_memory_bytes


@dataclass(frozen=True, slots=True)
class VisibleGpu:
    """One GPU, or one part of a GPU that MIG splits, at ``ordinal`` of CUDA's order.

    ``uuid`` is without the ``GPU-`` or ``MIG-`` that tools put before it. ``shares_memory``: its memory is the
    machine's own. ``compute_capability`` such as ``8.9``.
    """

    ordinal: int
    uuid: str
    name: str
    compute_capability: str
    memory_bytes: int
    shares_memory: bool


def checked(result: tuple[Any, ...], doing: str) -> Any:  # noqa: ANN401 - cuda-python answers with tuples of anything
    """The value or values behind a status. Every function of cuda-python returns (status, values...).

    Raises DeviceError, or the one of its subclasses that tells what the status means.
    """
    status, *values = result
    if int(status):
        _, name = cudart.cudaGetErrorName(status)
        _, text = cudart.cudaGetErrorString(status)
        said = f"CUDA failed {doing}: {_text(name)} ({_text(text)})"
        raise device_failure(int(status), f"{said}; run 'powertrain doctor'")
    return values[0] if len(values) == 1 else tuple(values)


def visible_gpus() -> list[VisibleGpu]:
    """All, in CUDA's order; none where CUDA works and shows none. Raises DeviceError."""
    counted = cudart.cudaGetDeviceCount()
    if int(counted[0]) == NO_DEVICE:
        return []
    found = []
    for ordinal in range(checked(counted, "counting GPUs")):
        properties = checked(cudart.cudaGetDeviceProperties(ordinal), f"reading what GPU {ordinal} is")
        found.append(
            VisibleGpu(
                ordinal=ordinal,
                uuid=str(uuid.UUID(bytes=bytes(properties.uuid.bytes))),
                name=_text(properties.name),
                compute_capability=f"{properties.major}.{properties.minor}",
                memory_bytes=int(properties.totalGlobalMem),
                shares_memory=bool(properties.integrated),
            )
        )
    return found


def find_visible(wanted: str) -> VisibleGpu:
    """The GPU with a UUID, with or without its prefix. Raises DeviceError that names those that CUDA shows."""
    found = visible_gpus()
    for gpu in found:
        if gpu.uuid == bare_uuid(wanted):
            return gpu
    shown = ", ".join(f"{gpu.uuid} ({gpu.name})" for gpu in found) or "none"
    raise DeviceError(f"CUDA does not show GPU {wanted} to this process, but {shown}; look at CUDA_VISIBLE_DEVICES")


def use(gpu: VisibleGpu) -> None:
    """Make a GPU the calling thread's. Raises DeviceError."""
    checked(cudart.cudaSetDevice(gpu.ordinal), f"choosing GPU {gpu.uuid}")


def memory_bytes(gpu: VisibleGpu) -> tuple[int, int]:
    """(free, total) of the GPU that ``use`` made the thread's. Raises DeviceError.

    Where the memory is the machine's own, CUDA counts as used what the kernel only keeps as cache of files (NVIDIA's
    notes on cudaMemGetInfo for GPUs with unified memory), and it would take a model that was just read for no room.
    """
    free, total = checked(cudart.cudaMemGetInfo(), "reading how much memory is free")
    if gpu.shares_memory:
        free = max(free, min(total, available_memory_bytes()))
    return free, total


def _text(raw: bytes | str) -> str:
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
