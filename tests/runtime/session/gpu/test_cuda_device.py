"""CudaDevice, call by call, over a double that refuses what CUDA refuses and fails on what CUDA gets silently wrong."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from runtime.errors import DeviceError, DeviceLost, DeviceOutOfMemory, RecordingRefused
from runtime.session.cuda_errors import LOST
from tests.host_cuda import HostCuda, installed
from tests.host_cuda_base import FIRST_STREAM
from tests.host_cuda_memory import POISON, HostCudaError
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


# Recordings.


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


# Refusals: each function of CUDA's, one after the other.


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


# The double bites: what CUDA would not say is an error here.


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
