"""A machine with a GPU or without one, as a backend is chosen for it, and plans that it may choose."""

from __future__ import annotations

from runtime.loading.backend import Backend
from runtime.loading.backend_probe import ProbeResult
from runtime.loading.gpu import Gpu, GpuReport
from runtime.package.manifest import Package
from runtime.package.package_file import sha256_of_file
from runtime.package.plan_sidecar import graph_digests, write_sidecar
from tests.runtime.package.made import plan_key, plan_sidecar

ADA = Gpu(0, "GPU-00000", "RTX 4090", "8.9", 24 * 2**30, 20 * 2**30, "595.10")
NONE = GpuReport((), "no driver", "install one")
VERSIONS = {
    Backend.TENSORRT: "11.4.0",
    Backend.TENSORRT_RTX: "1.7.1.116",
    Backend.CUDA: "1.31.1",
    Backend.ORT_TENSORRT: "1.31.1",
    Backend.ORT_TENSORRT_RTX: "0.5.0",
}


def working(backend: Backend) -> ProbeResult:
    """A probe that finds every library in its version."""
    return ProbeResult(VERSIONS[backend])


def broken(backend: Backend) -> ProbeResult:
    """A probe that finds none."""
    return ProbeResult(problem=f"{backend} is broken", fix=f"fix {backend}")


def add_plan(package: Package, name: str, library: str, version: str, capability: str, *, head_bytes: int = 0) -> None:
    """A plan file of nonsense with a right sidecar: enough for every check that comes before TensorRT.

    Its last ``head_bytes`` are the selection head's.
    """
    path = package.root / f"trt/{name}.plan"
    path.write_bytes(b"plan of " + name.encode())
    key = plan_key(
        library=library,
        library_version=version,
        target=name,
        compute_capability=capability,
        graph_sha256=graph_digests(package),
    )
    size = path.stat().st_size
    sidecar = plan_sidecar(
        key,
        plan_bytes=size,
        decoder_bytes=size - head_bytes,
        selection_bytes=head_bytes,
        scratch_bytes=1000,
        plan_sha256=sha256_of_file(path),
    )
    write_sidecar(path.with_name(f"{name}.plan.json"), sidecar)
