"""The double of CUDA bites: what CUDA would not say is an error there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.host_cuda import HostCuda
from tests.host_cuda_memory import HostCudaError
from tests.runtime.session.gpu.test_cuda_recording import recorded


def test_host_memory_that_changes_too_early_is_seen(cuda: HostCuda, device: Any) -> None:
    address, up = device.allocate(8), device.pinned(8)
    up[:] = 1
    device.upload(address, up)
    up[:] = 2
    with pytest.raises(HostCudaError, match="changed between the call of a copy and its execution"):
        device.synchronize()
    cuda.streams[device.stream].queued_blocks.clear()


def test_memory_is_of_its_kind_its_size_and_its_time(cuda: HostCuda, device: Any) -> None:
    address, memory = device.allocate(8), device.pinned(16)
    misuses: list[tuple[Callable[[], object], str]] = [
        (lambda: device.upload(memory.ctypes.data, memory[:8]), "device memory is wanted, .* is pinned"),
        (lambda: device.upload(address, memory), "16 bytes at .* leave their block, which has 8 more"),
        (lambda: device.upload(address, np.zeros(8, np.uint8)), "no pinned memory is at .*: it is pageable"),
        (lambda: device.copy_rows(address + 1, address, 2, 2, 2), "areas of a copy overlap"),
    ]
    for misuse, said in misuses:
        with pytest.raises(HostCudaError, match=said):
            misuse()
    device.synchronize()
    cuda.cudaFree(address)
    device._addresses.remove(address)
    with pytest.raises(HostCudaError, match="memory was used after it was freed"):
        device.upload(address, memory[:8])
    with pytest.raises(HostCudaError, match="device memory was freed twice"):
        cuda.cudaFree(address)


def test_what_is_in_use_is_not_freed(cuda: HostCuda, device: Any) -> None:
    recording, up, _, _ = recorded(cuda, device)
    (address,) = device._addresses
    recording.launch()
    with pytest.raises(HostCudaError, match="device memory was freed while work in a stream uses it"):
        cuda.cudaFree(address)
    with pytest.raises(HostCudaError, match="a stream was destroyed with work in it"):
        cuda.cudaStreamDestroy(device.stream)
    device.synchronize()
    with pytest.raises(HostCudaError, match="device memory was freed before a graph that uses it"):
        cuda.cudaFree(address)
    with pytest.raises(HostCudaError, match="pinned memory was freed before a graph that uses it"):
        cuda.cudaFreeHost(up.ctypes.data)
    with pytest.raises(HostCudaError, match="destroyed before the graphs that were captured from it"):
        cuda.cudaStreamDestroy(device.stream)


def test_a_thread_that_chose_no_gpu_is_seen(device: Any) -> None:
    """CUDA would take its first GPU for that thread, in silence."""
    failures: list[BaseException] = []

    def other() -> None:
        try:
            device.allocate(8)
        except HostCudaError as error:
            failures.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert [str(failure) for failure in failures] == ["this thread chose no GPU; CUDA would take its first"]
