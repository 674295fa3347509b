"""The machine and version block of every result: what a reader must know before comparing two figures."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("powertrain", "numpy", "onnxruntime", "onnxruntime-gpu", "uvloop", "httptools", "msgspec", "tokenizers")


def environment() -> dict[str, str]:
    """Machine, operating system, interpreter and library versions. Holds no user, host name or path."""
    block = {
        "unix_time": f"{time.time():.0f}",
        "cpu": _cpu_model(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory_gib": f"{_memory_bytes() / 2**30:.1f}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load_average": f"{os.getloadavg()[0]:.2f}",
    }
    for name in _PACKAGES:
        try:
            block[name] = version(name)
        except PackageNotFoundError:
            continue
    return block


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
