"""Which NVIDIA GPUs this machine has, asked of ``nvidia-smi``: the driver's own tool, so no library can be broken.

Knows no CUDA library and starts no context on a GPU.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

_QUERY = "--query-gpu=index,name,compute_cap,memory.total,memory.free,driver_version"
_TIMEOUT_S = 20.0
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. ``compute_capability`` such as ``8.9``."""

    index: int
    name: str
    compute_capability: str
    memory_bytes: int
    free_bytes: int
    driver: str

    @property
    def sm(self) -> str:
        """``sm89`` for compute capability 8.9."""
        return "sm" + self.compute_capability.replace(".", "")


@dataclass(frozen=True, slots=True)
class GpuReport:
    """The GPUs, or why there are none, and what would change that."""

    gpus: tuple[Gpu, ...]
    problem: str = ""
    fix: str = ""


def find_gpus(tool: str | None = None) -> GpuReport:
    """Ask the driver. ``tool`` is the path of ``nvidia-smi``, None to look for it."""
    path = tool or shutil.which("nvidia-smi")
    if path is None:
        fix = "apt install nvidia-driver" if shutil.which("apt") else "install NVIDIA's driver"
        return GpuReport((), "no NVIDIA driver: nvidia-smi is not on the PATH", fix)
    command = [path, _QUERY, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        return GpuReport((), f"nvidia-smi did not answer ({type(error).__name__})", "restart the machine or the driver")
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).strip().splitlines() or ["no reason given"]
        return GpuReport((), f"nvidia-smi failed: {lines[0]}", "restart the machine, or install the driver again")
    gpus = tuple(_gpu(line) for line in done.stdout.splitlines() if line.strip())
    return (
        GpuReport(gpus)
        if gpus
        else GpuReport((), "the driver sees no GPU", "check the card, or the container's --gpus")
    )


def _gpu(line: str) -> Gpu:
    index, name, capability, total, free, driver = (part.strip() for part in line.split(","))
    return Gpu(
        index=int(index),
        name=name,
        compute_capability=capability,
        memory_bytes=int(total) * _MIB,
        free_bytes=int(free) * _MIB,
        driver=driver,
    )
