"""CudaDevice over the strict double of CUDA's binding, which has nothing left when a test ends; graphs with a head."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from export.graph.ort.dialect import OPSET
from export.graph.selection import write_selection_graph
from tests.export.random_checkpoint import write_ort, write_trt
from tests.host_cuda import HostCuda, installed
from tests.host_cuda_state import HostGpu
from tests.runtime.session.gpu.heads import SHAPE, SPEC

FIRST, SECOND = "00000000-0000-0000-0000-0000000000aa", "00000000-0000-0000-0000-0000000000bb"


@pytest.fixture
def cuda() -> HostCuda:
    """Two GPUs, so that a device on the second one is seen to be there."""
    return HostCuda(HostGpu(FIRST, "First"), HostGpu(SECOND, "Second", (12, 0), 2**31, 2**20))


@pytest.fixture
def modules(cuda: HostCuda) -> Iterator[SimpleNamespace]:
    """The modules that import the binding, over the double."""
    with installed(cuda) as fresh:
        yield fresh


@pytest.fixture
def device(cuda: HostCuda, modules: SimpleNamespace) -> Iterator[Any]:
    """A CudaDevice on the second GPU, which leaves nothing behind when it is closed."""
    made = modules.cuda_device.CudaDevice(f"GPU-{SECOND}")
    yield made
    cuda.refusals.clear()
    made.close()
    assert cuda.poisoned or not cuda.leftovers()


@pytest.fixture(scope="package")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The decoder as ``ort`` and ``trt``, and the head as ``selection``."""
    folder = tmp_path_factory.mktemp("graphs")
    return {
        "ort": write_ort(SPEC, folder / "ort"),
        "trt": write_trt(SPEC, folder / "trt"),
        "selection": write_selection_graph(folder / "selection", SHAPE.vocab_size, OPSET, has_mask=True),
    }
