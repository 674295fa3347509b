"""Whole sessions on CudaDevice: the same tokens as on the CPU, through copies, pitches and recordings that are real.

TensorRT and ONNX Runtime are doubles too, which read and write the memory that CudaDevice made, on its stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from runtime.engine.config import EngineConfig
from runtime.engine.engine import Engine
from runtime.errors import DeviceError, DeviceLost
from runtime.events import FinishEvent, FinishReason, TokenEvent
from runtime.session.gpu.ort.providers import cuda_provider
from runtime.session.gpu.ort.runner import OrtRunner
from runtime.session.gpu.static_session import StaticSession
from runtime.session.gpu.trt import bound_run
from runtime.session.gpu.trt.runner import TrtRunner
from runtime.session.session import Session, decode_logits
from tests.export.random_checkpoint import CAPACITY
from tests.host_cuda import HostCuda
from tests.host_cuda_memory import HostCudaError
from tests.host_cuda_session import HostCudaSession
from tests.host_device import HostDevice, HostRecording
from tests.host_tensorrt import HostCudaEngine, HostPlan
from tests.runtime.engine_driver import request
from tests.runtime.session.gpu.test_static_session import SHAPE, SLOTS, ort_session

PROMPTS = [np.random.default_rng(seed).integers(0, SHAPE.vocab_size, 5 + 9 * seed).tolist() for seed in range(3)]

Open = Callable[[Any, HostCuda, dict[str, Path]], StaticSession]


def serve_with_copies(session: Session) -> dict[tuple[str, int], list[int]]:
    """Tokens by request and choice: a prompt that two choices share, and a hole that one of three others leaves."""
    engine = Engine(session, EngineConfig(prefill_chunk_tokens=16, idle_prefill_chunk_tokens=24, prefix_cache=False))
    engine.add(request("pair", PROMPTS[2], max_tokens=12, n=2))
    engine.add(request("brief", PROMPTS[1], max_tokens=2))
    engine.add(request("last", PROMPTS[0], max_tokens=12))
    tokens: dict[tuple[str, int], list[int]] = {}
    while engine.has_work:
        for event in engine.step().events:
            if isinstance(event, TokenEvent):
                tokens.setdefault((event.request_id, event.index), []).append(event.token_id)
            elif isinstance(event, FinishEvent):
                assert event.reason is FinishReason.LENGTH, event
    return tokens


class MemoryOfCuda(HostDevice):
    """What the doubles of TensorRT and ONNX Runtime ask of their device, answered by HostCuda."""

    def __init__(self, cuda: HostCuda, device: Any) -> None:
        super().__init__(ordinal=device.ordinal)
        self.cuda, self.handle = cuda, int(device.stream)
        self.queue = cuda.streams[self.handle].queue
        cuda.on_upload = self.note_upload
        cuda.on_capture = self._note_capture

    @property
    def stream(self) -> int:
        return self.handle

    def view(self, address: int, num_bytes: int) -> Any:
        return self.cuda.view(address, num_bytes)

    def push(self, issue: Any) -> None:
        self.cuda.push(self.handle, issue)

    def _note_capture(self, captured: list[Any] | None) -> None:
        self.recording = None if captured is None else HostRecording(self)


def open_trt(device: Any, cuda: HostCuda, graphs: dict[str, Path]) -> StaticSession:
    memory, plan = MemoryOfCuda(cuda, device), HostCudaEngine(graphs["trt"], num_slots=SLOTS, prefill_tokens=16)
    runner = TrtRunner(HostPlan(plan, memory), device, SHAPE)
    return StaticSession("tensorrt", runner, device, SHAPE, SLOTS)


def open_ort(device: Any, cuda: HostCuda, graphs: dict[str, Path]) -> StaticSession:
    memory = MemoryOfCuda(cuda, device)

    def make(path: Path, options: ort.SessionOptions) -> Any:
        return HostCudaSession(path, options, memory)

    provider = replace(cuda_provider(device.ordinal), make=make)
    runner = OrtRunner(graphs["ort"], provider, device, SHAPE, max_slots=SLOTS, prefill_tokens=16, capacity=CAPACITY)
    return StaticSession("cuda", runner, device, SHAPE, SLOTS)


@pytest.mark.parametrize("open_session", [open_trt, open_ort])
def test_a_batch_gets_the_tokens_that_the_cpu_gives(
    graphs: dict[str, Path], cuda: HostCuda, device: Any, open_session: Open
) -> None:
    """Prefill in pieces, ragged decode steps, copied and moved slots; recorded and launched where CUDA records."""
    session = open_session(device, cuda, graphs)
    assert serve_with_copies(session) == serve_with_copies(ort_session(graphs["ort"]))
    assert ("cudaGraphLaunch" in cuda.calls) is (open_session is open_trt)
    assert "cudaMemcpy2DAsync" in cuda.calls
    session.close()
    assert not cuda.leftovers()


@pytest.mark.parametrize("open_session", [open_trt, open_ort])
def test_a_gpu_that_is_lost_in_a_step_ends_the_engine_and_closes(
    graphs: dict[str, Path], cuda: HostCuda, device: Any, open_session: Open
) -> None:
    engine = Engine(open_session(device, cuda, graphs), EngineConfig())
    engine.add(request("one", [1, 2, 3], max_tokens=9))
    engine.step()

    def break_it() -> None:
        cuda.poisoned = 700

    cuda.push(device.stream, lambda: break_it)
    with pytest.raises(DeviceLost, match="cudaErrorIllegalAddress"):
        engine.step()
    (end,) = engine.fail_all("gone")[-1:]
    assert end.request_id == "one"
    engine.session.close()


@pytest.mark.parametrize("step", ["prefill", "decode", "recorded decode"])
def test_a_library_that_refuses_on_a_lost_gpu_tells_the_loss(
    graphs: dict[str, Path], cuda: HostCuda, device: Any, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """TensorRT answers with no more than a no; CUDA is asked at once, and not when the next request comes."""
    session, one = open_trt(device, cuda, graphs), np.array([1])

    def refuse(_run: Any) -> None:
        cuda.poisoned = 700
        raise DeviceError("the plan refused to run; see the log for TensorRT's reason")

    if step == "recorded decode":
        decode_logits(session, 0, one, one)
    monkeypatch.setattr(bound_run.TrtRun, "enqueue", refuse)
    with pytest.raises(DeviceLost, match="cudaErrorIllegalAddress"):
        session.prefill(0, one, 0, 1) if step == "prefill" else decode_logits(session, 0, one, one)
    session.close()


def test_a_copy_of_a_slot_that_cuda_refuses_costs_no_answer(
    graphs: dict[str, Path], cuda: HostCuda, device: Any
) -> None:
    expected = serve_with_copies(ort_session(graphs["ort"]))
    session = open_trt(device, cuda, graphs)
    cuda.refusals["cudaMemcpy2DAsync"] = 1
    assert serve_with_copies(session) == expected
    assert "cudaMemcpy2DAsync" in cuda.calls
    session.close()


def test_memory_that_does_not_suffice_for_the_session_is_given_back(cuda: HostCuda, device: Any) -> None:
    from runtime.session.gpu.device_arena import DeviceArena

    with pytest.raises(DeviceError, match="cudaErrorMemoryAllocation"):
        DeviceArena(device, SHAPE, 10**6, 4096, 4)
    device.close()
    assert not cuda.leftovers()


def test_logits_are_not_there_before_the_device_was_waited_for(
    graphs: dict[str, Path], cuda: HostCuda, device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the double notices a wait that is forgotten: the logits are no numbers then."""
    session = open_trt(device, cuda, graphs)
    monkeypatch.setattr(device, "synchronize", lambda: None)
    assert np.isnan(session.prefill(0, np.arange(1, 4), 0, 1)).all()
    session.prefill(0, np.arange(4, 7), 3, 1)
    monkeypatch.undo()
    with pytest.raises(HostCudaError, match="host memory changed"):
        device.synchronize()
    cuda.streams[device.stream].queue.clear()
    session.close()
