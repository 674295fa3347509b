"""Sessions with a selection head over the doubles: TensorRT recorded and compiling, ONNX Runtime with capture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnxruntime as ort

from runtime.session.gpu.ort.providers import cuda_provider
from runtime.session.gpu.ort.runner import OrtRunner, Provider
from runtime.session.gpu.ort.selector import OrtSelector
from runtime.session.gpu.static_session import StaticSession
from runtime.session.gpu.trt.runner import TrtRunner
from runtime.session.gpu.trt.selector import TrtSelector
from tests.export.random_checkpoint import ARCHITECTURES, CAPACITY, model_shape
from tests.host_cuda_session import HostCudaSession
from tests.host_device import HostDevice
from tests.host_tensorrt import HostCudaEngine, HostPlan, HostSelectionEngine

SPEC = ARCHITECTURES["llama"]
SHAPE = model_shape(SPEC)
SLOTS = 4
KINDS = ("recorded", "compiling", "captured")


@dataclass
class Opened:
    """A session and what is below it; ``heads`` are the doubles that run the selection head, none without one."""

    session: StaticSession
    device: HostDevice
    heads: list[Any]


def opened(
    kind: str, graphs: dict[str, Path], *, has_head: bool = True, num_slots: int = SLOTS, runs_ahead: bool = False
) -> Opened:
    """``graphs`` are the decoder as ``ort`` and ``trt`` and the head as ``selection``."""
    device = HostDevice()
    if kind == "captured":
        return _captured(graphs, device, has_head=has_head, num_slots=num_slots, runs_ahead=runs_ahead)
    compiles = kind == "compiling"
    return _trt(graphs, device, compiles=compiles, has_head=has_head, num_slots=num_slots, runs_ahead=runs_ahead)


def _trt(
    graphs: dict[str, Path], device: HostDevice, *, compiles: bool, has_head: bool, num_slots: int, runs_ahead: bool
) -> Opened:
    heads, selector = list[Any](), None
    engine = HostCudaEngine(graphs["trt"], num_slots=num_slots)
    lanes = 2 if has_head and runs_ahead else 1
    runner = TrtRunner(HostPlan(engine, device, compiles_per_shape=compiles), device, SHAPE, num_lanes=lanes)
    if has_head:
        heads.append(HostSelectionEngine(graphs["selection"], num_slots))
        plan = HostPlan(heads[0], device, compiles_per_shape=compiles)
        selector = TrtSelector(plan, device, SHAPE.vocab_size, num_lanes=lanes)
    return Opened(StaticSession("tensorrt", runner, device, SHAPE, num_slots, selector=selector), device, heads)


def _captured(
    graphs: dict[str, Path], device: HostDevice, *, has_head: bool, num_slots: int, runs_ahead: bool
) -> Opened:
    made, stream = list[HostCudaSession](), device.stream if runs_ahead else None

    def make(path: Path, options: ort.SessionOptions) -> Any:
        options.intra_op_num_threads = 1
        made.append(HostCudaSession(path, options, device, stream=stream))
        return made[-1]

    provider: Provider = replace(cuda_provider(0, stream), make=make)
    sizes: dict[str, int] = {"max_slots": num_slots, "prefill_tokens": 16, "capacity": CAPACITY}
    runner = OrtRunner(graphs["ort"], provider, device, SHAPE, **sizes)
    selector = OrtSelector(graphs["selection"], provider, device, SHAPE.vocab_size) if has_head else None
    return Opened(StaticSession("cuda", runner, device, SHAPE, num_slots, selector=selector), device, made[1:])
