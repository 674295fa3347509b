"""CudaDevice: which GPU it is, its memory and its copies, over a double that refuses what CUDA refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from runtime.errors import DeviceError, DeviceOutOfMemory
from tests.host_cuda import HostCuda, installed
from tests.host_cuda_base import FIRST_STREAM
from tests.host_cuda_memory import POISON
from tests.host_cuda_state import HostGpu
from tests.runtime.session.gpu.conftest import FIRST, SECOND


def numbers(count: int, start: int = 1) -> np.ndarray[Any, Any]:
    return (np.arange(start, start + count) % 251).astype(np.uint8)


# Which GPU.


@pytest.mark.parametrize("uuid", [f"GPU-{SECOND}", f"MIG-{SECOND}", SECOND, f"GPU-{SECOND.upper()}"])
def test_a_device_is_the_gpu_with_its_uuid(cuda: HostCuda, modules: SimpleNamespace, uuid: str) -> None:
    device = modules.cuda_device.CudaDevice(uuid)
    assert (device.ordinal, device.stream) == (1, FIRST_STREAM)
    assert device.memory_bytes() == (2**31 - 2**20, 2**31)
    device.allocate(512)
    assert device.memory_bytes() == (2**31 - 2**20 - 512, 2**31)
    assert cuda.memory.used_bytes(1) == 512
    device.close()
    assert not cuda.leftovers()


def test_a_gpu_that_cuda_does_not_show_is_named_with_those_that_it_does(modules: SimpleNamespace) -> None:
    with pytest.raises(
        DeviceError, match=rf"does not show GPU GPU-9 to this process, but {FIRST} \(First\), {SECOND} "
    ):
        modules.cuda_device.CudaDevice("GPU-9")


def test_every_gpu_is_listed_in_cudas_order(cuda: HostCuda, modules: SimpleNamespace) -> None:
    first, second = modules.visible_gpus.visible_gpus()
    assert (first.ordinal, first.uuid, first.name, first.compute_capability) == (0, FIRST, "First", "8.9")
    assert (second.ordinal, second.uuid, second.compute_capability, second.memory_bytes) == (1, SECOND, "12.0", 2**31)
    assert not first.shares_memory
    assert set(cuda.calls) == {"cudaGetDeviceCount", "cudaGetDeviceProperties"}  # no context on any of them


def test_cuda_that_shows_none_is_no_failure(cuda: HostCuda, modules: SimpleNamespace) -> None:
    cuda.gpus = ()
    assert modules.visible_gpus.visible_gpus() == []
    cuda.refusals["cudaGetDeviceCount"] = 35
    with pytest.raises(DeviceError, match="counting GPUs: cudaErrorInsufficientDriver"):
        modules.visible_gpus.visible_gpus()


def test_memory_that_is_the_machines_counts_what_the_kernel_would_give_back(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = HostGpu(FIRST, "GB10", (12, 1), 2**30, 2**30 - 100, integrated=1)
    with installed(HostCuda(gpu)) as modules:
        (seen,) = modules.visible_gpus.visible_gpus()
        assert seen.shares_memory
        modules.visible_gpus.use(seen)
        for available, free in ((70, 100), (5000, 5000), (2**40, 2**30)):
            monkeypatch.setattr(modules.visible_gpus, "available_memory_bytes", lambda it=available: it)
            assert modules.visible_gpus.memory_bytes(seen) == (free, 2**30)


def test_the_query_measures_the_gpu_that_is_wanted(cuda: HostCuda, modules: SimpleNamespace) -> None:
    from runtime.loading.cuda_query import answer

    assert [gpu.free_bytes for gpu in answer(()).gpus] == [2**30 - 2**20, None]
    assert [gpu.free_bytes for gpu in answer((f"GPU-{SECOND[:-1]}b",)).gpus] == [None, 2**31 - 2**20]
    assert [gpu.free_bytes for gpu in answer(("GPU-f",)).gpus] == [None, None]
    cuda.refusals["cudaSetDevice"] = 46
    busy = answer(())
    assert [gpu.free_bytes for gpu in busy.gpus] == [None, None]
    assert busy.problem.startswith(f"CUDA failed choosing GPU {FIRST}: cudaErrorDevicesUnavailable")
    cuda.gpus = ()
    assert (answer(()).gpus, answer(()).problem) == ((), "")


# Memory and copies.


def test_memory_is_cleared_in_the_stream(cuda: HostCuda, device: Any) -> None:
    address = device.allocate(1000)
    assert set(cuda.view(address, 1000)) == {POISON}
    device.synchronize()
    assert set(cuda.view(address, 1000)) == {0}
    assert address % 256 == 0


@pytest.mark.parametrize("num_bytes", [0, 1])
def test_little_or_no_memory_can_be_had(cuda: HostCuda, device: Any, num_bytes: int) -> None:
    device.allocate(num_bytes)
    assert device.pinned(num_bytes).nbytes == num_bytes
    device.synchronize()
    assert cuda.leftovers() == {"device memory": 1, "pinned memory": 1, "streams": 1}


def test_what_goes_up_comes_down(cuda: HostCuda, device: Any) -> None:
    address, up, down = device.allocate(64), device.pinned(64), device.pinned(64)
    up[:] = numbers(64)
    device.upload(address, up)
    device.download(down, address)
    assert set(down) == {POISON}  # nothing has run
    device.synchronize()
    np.testing.assert_array_equal(down, numbers(64))
    np.testing.assert_array_equal(cuda.view(address, 64), numbers(64))


def test_a_part_of_pinned_memory_is_copied_as_far_as_it_goes(cuda: HostCuda, device: Any) -> None:
    address, up, down = device.allocate(64), device.pinned(64), device.pinned(64)
    up[:] = numbers(64)
    device.upload(address + 8, up[16:24])
    device.download(down[4:12], address + 8)
    device.synchronize()
    np.testing.assert_array_equal(down[4:12], numbers(8, 17))
    np.testing.assert_array_equal(cuda.view(address, 64), [*[0] * 8, *numbers(8, 17), *[0] * 48])
    assert set(down[:4]) == set(down[12:]) == {POISON}


def test_copies_of_wider_numbers_count_bytes(cuda: HostCuda, device: Any) -> None:
    """Logits are float32 views of pinned bytes."""
    address, up = device.allocate(64), device.pinned(64)
    up.view(np.float32)[:] = np.arange(16)
    device.upload(address, up)
    device.synchronize()
    np.testing.assert_array_equal(cuda.view(address, 64).view(np.float32), np.arange(16))


def test_rows_are_copied_with_their_pitch(cuda: HostCuda, device: Any) -> None:
    """Three rows of 8 bytes, 32 apart, from one place to another: between them nothing changes."""
    address, up = device.allocate(256), device.pinned(256)
    up[:] = numbers(256)
    device.upload(address, up)
    device.copy_rows(address + 128 + 4, address + 2, row_bytes=8, pitch_bytes=32, num_rows=3)
    device.synchronize()
    expected = numbers(256)
    for row in range(3):
        expected[132 + 32 * row :][:8] = numbers(256)[2 + 32 * row :][:8]
    np.testing.assert_array_equal(cuda.view(address, 256), expected)


def test_a_pitch_below_the_width_is_refused(device: Any) -> None:
    address = device.allocate(256)
    with pytest.raises(DeviceError, match="copying cache rows: cudaErrorInvalidPitchValue"):
        device.copy_rows(address + 128, address, row_bytes=32, pitch_bytes=8, num_rows=2)


def test_no_room_is_a_shortage_and_the_device_goes_on(cuda: HostCuda, device: Any) -> None:
    with pytest.raises(
        DeviceOutOfMemory, match=r"allocating 2,147,483,648 bytes on the GPU: cudaErrorMemoryAllocation"
    ):
        device.allocate(2**31)
    device.allocate(100)
    device.synchronize()
    assert cuda.leftovers()["device memory"] == 1


@pytest.mark.parametrize("direction", ["to", "from"])
def test_a_copy_that_cuda_refuses_is_told_either_way(cuda: HostCuda, device: Any, direction: str) -> None:
    address, memory = device.allocate(8), device.pinned(8)
    cuda.refusals["cudaMemcpyAsync"] = 1
    with pytest.raises(DeviceError, match=f"copying {direction} the GPU: cudaErrorInvalidValue"):
        device.upload(address, memory) if direction == "to" else device.download(memory, address)
