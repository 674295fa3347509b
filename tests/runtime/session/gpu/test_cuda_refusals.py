"""What CUDA refuses, at each call and at any time: told as what it means, and nothing is left behind."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.errors import DeviceError, DeviceLost, DeviceOutOfMemory, RecordingRefused
from runtime.session.cuda_errors import LOST
from tests.host_cuda import HostCuda
from tests.runtime.session.gpu.conftest import SECOND


def use_all(device: Any) -> None:
    address, memory = device.allocate(64), device.pinned(64)
    device.upload(address, memory)
    device.copy_rows(address + 32, address, 8, 16, 2)
    device.widen(address + 32, address, 4)
    mark = device.mark()
    mark.set()
    mark.wait()
    recording = device.record(lambda: device.download(memory, address))
    device.synchronize()
    recording.launch()
    device.synchronize()
    device.memory_bytes()


OPENING = ("cudaGetDeviceCount", "cudaGetDeviceProperties", "cudaSetDevice", "cudaStreamCreateWithFlags")


CLOSING = ("cudaGraphExecDestroy", "cudaEventDestroy", "cudaFree", "cudaFreeHost", "cudaStreamDestroy")


RECORDING = ("cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphDestroy")


USING = (
    "cudaMalloc",
    "cudaMemsetAsync",
    "cudaHostAlloc",
    "cudaMemcpyAsync",
    "cudaMemcpy2DAsync",
    "cudaGraphLaunch",
    "cudaStreamSynchronize",
    "cudaMemGetInfo",
    "cudaEventCreateWithFlags",
    "cudaEventRecord",
    "cudaEventSynchronize",
)


def test_these_are_all_the_functions_that_are_used(cuda: HostCuda, device: Any) -> None:
    use_all(device)
    device.close()
    assert set(cuda.calls) == {*OPENING, *USING, *RECORDING, *CLOSING}


@pytest.mark.parametrize("name", OPENING)
def test_a_refusal_while_a_device_is_made_is_told(cuda: HostCuda, modules: SimpleNamespace, name: str) -> None:
    cuda.refusals[name] = 999
    with pytest.raises(DeviceError, match=r"CUDA failed .*: cudaErrorUnknown \(text of 999\); run 'powertrain doctor'"):
        modules.cuda_device.CudaDevice(SECOND)
    assert not cuda.leftovers()


@pytest.mark.parametrize("name", USING)
@pytest.mark.parametrize(
    ("status", "kind"), [(999, DeviceError), (2, DeviceOutOfMemory), (700, DeviceLost), (214, DeviceLost)]
)
def test_a_refusal_in_use_is_told_as_what_it_means(
    cuda: HostCuda, device: Any, name: str, status: int, kind: type[DeviceError]
) -> None:
    cuda.refusals[name] = status
    with pytest.raises(DeviceError, match=f"text of {status}") as caught:
        use_all(device)
    assert type(caught.value) is kind


@pytest.mark.parametrize("name", RECORDING)
@pytest.mark.parametrize("status", [999, 2, 901])
def test_a_refusal_to_record_is_that_and_leaves_no_graph(cuda: HostCuda, device: Any, name: str, status: int) -> None:
    cuda.refusals[name] = status
    with pytest.raises(RecordingRefused, match=f"text of {status}"):
        use_all(device)
    cuda.refusals.clear()
    device.synchronize()
    assert cuda.leftovers().get("graphs", 0) == (name == "cudaGraphDestroy")
    if name == "cudaGraphDestroy":
        cuda.graphs.clear()  # what was refused cannot be mended; the rest of this test's checks can go on


@pytest.mark.parametrize("name", RECORDING)
def test_a_device_that_is_lost_while_it_records_is_lost(cuda: HostCuda, device: Any, name: str) -> None:
    cuda.refusals[name] = 700
    with pytest.raises(DeviceLost, match="restart the server"):
        use_all(device)
    cuda.graphs.clear()


def test_the_loss_of_a_device_counts_more_than_what_the_work_said_of_it(cuda: HostCuda, device: Any) -> None:
    def fail() -> None:
        cuda.poisoned = 719
        raise DeviceError("the plan refused to run; see the log")

    with pytest.raises(DeviceLost, match="cudaErrorLaunchFailure"):
        device.record(fail)


@pytest.mark.parametrize("name", CLOSING)
def test_a_refusal_in_closing_is_logged_and_keeps_nothing_else(
    cuda: HostCuda, device: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    use_all(device)
    cuda.refusals[name] = 999
    with caplog.at_level(logging.WARNING, "powertrain.backend"):
        device.close()
    assert "1 calls failed as the GPU was closed; the first: CUDA failed " in caplog.text
    assert "cudaErrorUnknown" in caplog.text
    left = cuda.leftovers()
    kept = {
        "cudaGraphExecDestroy": {"executable graphs"},
        "cudaEventDestroy": {"events"},
        "cudaFree": {"device memory"},
        "cudaFreeHost": {"pinned memory"},
        "cudaStreamDestroy": {"streams"},
    }
    assert set(left) == kept[name]
    cuda.executables.clear()
    cuda.events.clear()
    cuda.streams.clear()
    cuda.memory.blocks.clear()


def test_closing_again_does_nothing_and_a_lost_device_is_closed_without_a_word_too_many(
    cuda: HostCuda, device: Any, caplog: pytest.LogCaptureFixture
) -> None:
    use_all(device)
    cuda.poisoned = 700
    device.close()
    assert "6 calls failed as the GPU was closed; the first: CUDA failed waiting for the last step" in caplog.text
    calls = len(cuda.calls)
    device.close()
    assert len(cuda.calls) == calls


@pytest.mark.parametrize("status", sorted(LOST))
def test_what_a_kernel_breaks_is_told_at_the_next_wait_and_for_ever(cuda: HostCuda, device: Any, status: int) -> None:
    device.synchronize()

    def broken() -> None:
        cuda.poisoned = status

    cuda.push(device.stream, lambda: broken)
    with pytest.raises(DeviceLost, match=f"running a step: {LOST[status]}"):
        device.synchronize()
    with pytest.raises(DeviceLost):
        device.allocate(8)
