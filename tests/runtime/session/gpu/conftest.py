"""CudaDevice over the strict double of CUDA's binding: nothing may be left when a test ends."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.host_cuda import HostCuda, installed
from tests.host_cuda_state import HostGpu

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
