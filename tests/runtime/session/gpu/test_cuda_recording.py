"""Work that CudaDevice records and replays, and marks in its stream, over the strict double of CUDA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from runtime.errors import DeviceError, RecordingRefused
from tests.host_cuda import HostCuda
from tests.host_cuda_memory import POISON
from tests.runtime.session.gpu.test_cuda_device import numbers


def recorded(cuda: HostCuda, device: Any) -> tuple[Any, Any, Any, Any]:
    """A step that uploads 8 bytes, adds one to each, and downloads them."""
    address, up, down = device.allocate(8), device.pinned(8), device.pinned(8)
    device.synchronize()
    region = cuda.view(address, 8)

    def add_one() -> None:
        region[:] += 1

    def work() -> None:
        device.upload(address, up)
        cuda.push(device.stream, lambda: add_one, (address, 8))
        device.download(down, address)

    return device.record(work), up, down, region


def test_a_recorded_step_runs_when_it_is_launched_and_every_time(cuda: HostCuda, device: Any) -> None:
    recording, up, down, region = recorded(cuda, device)
    device.synchronize()
    assert set(region) == {0}  # recording runs nothing
    for start in (10, 20):
        up[:] = numbers(8, start)
        recording.launch()
        assert set(down) == {POISON}
        device.synchronize()
        np.testing.assert_array_equal(down, numbers(8, start + 1))
    assert cuda.leftovers() == {"device memory": 1, "pinned memory": 2, "streams": 1, "executable graphs": 1}


@pytest.mark.parametrize(
    ("forbidden", "said"),
    [
        (lambda device: device.synchronize(), "running a step: cudaErrorStreamCaptureUnsupported"),
        (lambda device: device.allocate(8), "allocating 8 bytes on the GPU: cudaErrorStreamCaptureUnsupported"),
        (lambda device: device.pinned(8), "pinning 8 bytes: cudaErrorStreamCaptureUnsupported"),
        (lambda device: device.upload(0, np.zeros(8, np.uint8)), "to the GPU: cudaErrorStreamCaptureUnsupported"),
        (lambda device: device.record(lambda: None), "recording a step: cudaErrorIllegalState"),
    ],
)
def test_what_cannot_be_recorded_leaves_the_stream_usable(
    cuda: HostCuda, device: Any, forbidden: Callable[[Any], object], said: str
) -> None:
    address, up = device.allocate(8), device.pinned(8)
    device.synchronize()
    with pytest.raises(RecordingRefused, match=said):
        device.record(lambda: forbidden(device))
    up[:] = 3
    device.upload(address, up)
    device.synchronize()
    assert set(cuda.view(address, 8)) == {3}
    assert "graphs" not in cuda.leftovers()
    assert "executable graphs" not in cuda.leftovers()


def test_work_that_swallows_a_refusal_is_not_recorded_either(cuda: HostCuda, device: Any) -> None:
    """What a library does in capture, and does not tell, invalidates it."""

    def quiet() -> None:
        cuda.cudaMalloc(8)

    with pytest.raises(RecordingRefused, match="recording a step: cudaErrorStreamCaptureInvalidated"):
        device.record(quiet)
    recording, up, down, _ = recorded(cuda, device)
    up[:] = 5
    recording.launch()
    device.synchronize()
    assert set(down) == {6}


@pytest.mark.parametrize("error", [DeviceError("the plan refused to run"), ZeroDivisionError("ours")])
def test_a_failure_of_the_work_leaves_the_stream_usable(cuda: HostCuda, device: Any, error: Exception) -> None:
    def fail() -> None:
        raise error

    expected = RecordingRefused if isinstance(error, DeviceError) else ZeroDivisionError
    with pytest.raises(expected, match=str(error)):
        device.record(fail)
    device.synchronize()
    assert cuda.leftovers() == {"streams": 1}


def test_a_mark_waits_for_what_came_before_it_and_for_nothing_else(cuda: HostCuda, device: Any) -> None:
    address, memory, order = device.allocate(64), device.pinned(64), list[str]()
    device.synchronize()
    marks = [device.mark(), device.mark()]

    def noting(what: str) -> Callable[[], Callable[[], None]]:
        return lambda: lambda: order.append(what)

    for number, mark in enumerate(marks):
        cuda.push(device.stream, noting(f"step {number}"), (address, 1))
        mark.set()
    marks[0].wait()
    assert order == ["step 0"]
    marks[0].wait()
    assert order == ["step 0"]
    marks[1].wait()
    assert order == ["step 0", "step 1"]
    assert len(memory) == 64


def test_tokens_become_ids_and_nothing_beside_them(cuda: HostCuda, device: Any) -> None:
    tokens, ids = device.allocate(4 * 4), device.allocate(8 * 6)
    device.synchronize()
    cuda.view(tokens, 16).view(np.int32)[:] = (5, 2**31 - 1, 0, 7)
    cuda.view(ids, 48).view(np.int64)[:] = (1, 2, 3, 4, 5, 6)
    device.widen(ids + 8, tokens, 4)
    device.synchronize()
    assert cuda.view(ids, 48).view(np.int64).tolist() == [1, 5, 2**31 - 1, 0, 7, 6]
