"""Asks CUDA which GPUs it shows, in a process of its own, and prints the answer as JSON.

``python -m runtime.loading.cuda_query [UUID...]``: lists all GPUs and measures the memory of the first whose UUID
begins with one of those given, or of the first of all. Measuring makes a context on that GPU, which ends with the
process; the server has none before it has chosen. The list is CUDA's, so ``CUDA_VISIBLE_DEVICES`` counts.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import msgspec

from runtime.errors import DeviceError
from runtime.session.gpu.gpu_uuid import bare_uuid

_TIMEOUT_S = 60.0


class SeenGpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A GPU that CUDA shows. ``uuid`` without prefix; ``free_bytes`` None where it was not measured."""

    uuid: str
    name: str
    compute_capability: str
    memory_bytes: int
    free_bytes: int | None = None


class CudaAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The GPUs in CUDA's order, and what failed. Neither: CUDA works, and shows no GPU."""

    gpus: tuple[SeenGpu, ...] = ()
    problem: str = ""


def ask_cuda(wanted: tuple[str, ...] = ()) -> CudaAnswer | None:
    """What CUDA shows in a process with this one's environment; None without cuda-python."""
    if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.bindings") is None:
        return None
    command = [sys.executable, "-P", "-m", "runtime.loading.cuda_query", *wanted]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        return CudaAnswer(problem=f"CUDA does not answer for {_TIMEOUT_S:.0f} s")
    try:
        return msgspec.json.decode(done.stdout.splitlines()[-1], type=CudaAnswer)
    except (msgspec.MsgspecError, IndexError):
        return CudaAnswer(problem=f"asking CUDA for its GPUs failed (exit status {done.returncode})")


def answer(wanted: tuple[str, ...]) -> CudaAnswer:
    """Ask in this process, whose CUDA is not to be used for anything else afterwards."""
    try:
        from runtime.session.gpu.visible_gpus import memory_bytes, use, visible_gpus
    except (ImportError, OSError, RuntimeError) as error:  # what a wheel without its libraries raises
        return CudaAnswer(problem=f"cuda-python does not load: {(str(error).splitlines() or [''])[0]}")
    try:
        found = visible_gpus()
    except DeviceError as error:
        return CudaAnswer(problem=_said(error))
    begins = tuple(bare_uuid(one) for one in wanted) or ("",)
    measured = next((gpu for gpu in found if gpu.uuid.startswith(begins)), None)
    free, problem = None, ""
    if measured is not None:
        try:
            use(measured)
            free, _ = memory_bytes(measured)
        except DeviceError as error:
            problem = _said(error)
    return CudaAnswer(
        tuple(
            SeenGpu(gpu.uuid, gpu.name, gpu.compute_capability, gpu.memory_bytes, free if gpu is measured else None)
            for gpu in found
        ),
        problem,
    )


def _said(error: DeviceError) -> str:
    return str(error).removesuffix("; run 'powertrain doctor'")  # which is what may be asking


if __name__ == "__main__":
    sys.stdout.write(msgspec.json.encode(answer(tuple(sys.argv[1:]))).decode() + "\n")
