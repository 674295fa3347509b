"""A rig of doubles: sessions of TensorRT and ONNX Runtime over host memory, with the one fault that a test wants."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import onnxruntime as ort

from api.server_settings import Settings
from runtime.errors import DeviceOutOfMemory
from runtime.loading.self_test import KlLimits
from runtime.package.attention_form import DEFAULT_ATTENTION, AttentionForm
from runtime.session.cpu.ort_session import OrtOptions, OrtSession
from runtime.session.device import Device
from runtime.session.gpu.ort.providers import cuda_provider
from runtime.session.gpu.ort.runner import SKIP_CAPTURE, OrtRunner, Provider
from runtime.session.gpu.ort.selector import OrtSelector
from runtime.session.gpu.runner import Runner, Selector
from runtime.session.gpu.static_session import StaticSession
from runtime.session.gpu.trt.runner import TrtRunner
from runtime.session.gpu.trt.selector import TrtSelector
from runtime.session.kv_budget import KVPlan
from runtime.session.session import Session
from tests.gpu import models
from tests.gpu.checks.rig import MAIN, SLOTS, Model, opened
from tests.host_cuda_session import HostCudaSession
from tests.host_device import HostDevice
from tests.host_tensorrt import HostCudaEngine, HostPlan, HostSelectionEngine
from tests.security.real_server import real_server

CAPACITY, PREFILL_TOKENS = 64, 16
EXACT = KlLimits(1e-7, 1e-6)
"""Of float32 against float32: random weights attend weakly, so what a fault costs is small here."""
CARD_BYTES = 2**30
FORMS: tuple[AttentionForm, ...] = (DEFAULT_ATTENTION, "lengths")
"""Of a plan's attention: the doubles compute the same in each."""


@dataclass(eq=False)
class CardDevice(HostDevice):
    """A device on a card of the rig's size."""

    rig: HostRig = field(kw_only=True)

    def allocate(self, num_bytes: int) -> int:
        if num_bytes > self.rig.free_bytes():
            raise DeviceOutOfMemory(f"CUDA failed allocating {num_bytes:,} bytes on the GPU; run 'powertrain doctor'")
        return super().allocate(num_bytes)


@dataclass
class HostRig:
    """``tests.gpu.checks.rig.Rig`` over ``backend``'s doubles: ``tensorrt`` or ``cuda``.

    ``wrap`` is put around every session, ``make_device`` in the place of the device; ``kernels`` is the file that a
    test wants to have been written. ``form`` is that of the session that is open.
    """

    folder: Path
    backend: str = "tensorrt"
    wrap: Callable[[Session], Session] = lambda session: session
    make_device: Callable[..., CardDevice] = CardDevice
    precisions: tuple[str, ...] = ("fp32",)
    soak_seconds: float = 0.0
    compiles_at_run_time: bool = False
    kernels: list[Path] = field(default_factory=list)
    seconds: float = 0.0
    tokens_per_s: float | None = None
    taken: int = 0
    form: AttentionForm = DEFAULT_ATTENTION
    devices: list[CardDevice] = field(default_factory=list)

    prefill_tokens = PREFILL_TOKENS
    memory_noise_bytes = 0

    def model(self, name: str = MAIN, precision: str = "") -> Model:
        shape, chosen = "tiny" if name == MAIN else name, precision or self.precisions[0]
        package, reference = models.build(models.tiny_recipe(self.folder, shape, chosen, CAPACITY), self.folder)
        graph = package.manifest.graphs["ort" if self.backend == "cuda" else "trt"]
        return Model(package, reference, graph.kv_dtype, graph.weight_bytes, EXACT)

    def open(self, model: Model, num_slots: int = SLOTS) -> Session:
        return self.wrap(self._opened(model, num_slots, records=True))

    def forms(self, model: Model) -> Iterator[tuple[str, Session]]:
        for form in FORMS if self.backend == "tensorrt" else ():
            self.form = form
            with opened(self, model) as session:
                yield form, session

    @contextlib.contextmanager
    def eager(self, model: Model) -> Iterator[Session | None]:
        session = self._opened(model, SLOTS, records=False)
        try:
            yield session
        finally:
            session.close()

    def _opened(self, model: Model, num_slots: int, *, records: bool) -> Session:
        device, shape = self._device(), model.package.manifest.shape
        make = self._cuda_runner if self.backend == "cuda" else self._trt_runner
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(device.close)
            runner = make(model, device, records=records)
            on_failure.callback(runner.close)
            selector = self._selector(model, device, records=records)
            on_failure.callback(selector.close)
            session = StaticSession(self.backend, runner, device, shape, num_slots, selector=selector)
            on_failure.pop_all()
        return session

    def _selector(self, model: Model, device: HostDevice, *, records: bool) -> Selector:
        """The head that the package holds, in the backend's double."""
        graph, vocab_size = model.package.path("selection/model.onnx"), model.package.manifest.shape.vocab_size
        if self.backend == "cuda":
            return OrtSelector(graph, self._provider(device, records=records), device, vocab_size)
        plan = HostPlan(HostSelectionEngine(graph, SLOTS), device, compiles_per_shape=not records)
        return TrtSelector(plan, device, vocab_size)

    @staticmethod
    def _trt_runner(model: Model, device: HostDevice, *, records: bool) -> Runner:
        plan = HostCudaEngine(
            model.package.path("trt/model.onnx"), num_slots=SLOTS, prefill_tokens=PREFILL_TOKENS, max_logits=8
        )
        shape = model.package.manifest.shape
        return TrtRunner(HostPlan(plan, device, compiles_per_shape=not records), device, shape)

    @staticmethod
    def _provider(device: HostDevice, *, records: bool) -> Provider:
        def make(path: Path, options: ort.SessionOptions) -> Any:
            options.intra_op_num_threads = 1
            return HostCudaSession(path, options, device)

        provider = replace(cuda_provider(), make=make)
        if not records:
            provider = replace(provider, run_entries=lambda _decodes, _graph_id: {"gpu_graph_id": str(SKIP_CAPTURE)})
        return provider

    @classmethod
    def _cuda_runner(cls, model: Model, device: HostDevice, *, records: bool) -> Runner:
        return OrtRunner(
            model.package.path("ort/model.onnx"),
            cls._provider(device, records=records),
            device,
            model.package.manifest.shape,
            max_slots=SLOTS,
            prefill_tokens=PREFILL_TOKENS,
            capacity=CAPACITY,
        )

    def reference(self, model: Model, num_slots: int = SLOTS) -> Session:
        kv = KVPlan(num_slots=num_slots, slot_tokens=CAPACITY, bytes_per_token=0, budget_bytes=0)
        options = OrtOptions(intra_op_threads=1, spin_us=0)
        return OrtSession(model.reference, model.package.manifest.shape, kv, options, "float32")

    def device(self) -> Device:
        return self._device()

    def _device(self) -> CardDevice:
        self.devices.append(self.make_device(rig=self))
        return self.devices[-1]

    @contextlib.contextmanager
    def exhausted(self) -> Iterator[None]:
        self.taken = self.free_bytes()
        try:
            yield
        finally:
            self.taken = 0

    def free_bytes(self) -> int:
        blocks = [block for device in self.devices for block in device.blocks.values()]
        return CARD_BYTES - self.taken - sum(map(len, blocks))

    @contextlib.contextmanager
    def serve(self, model: Model) -> Iterator[str]:
        """The real server, its session from this rig."""
        with (
            mock.patch("runtime.loading.first_that_loads.session_factory", return_value=lambda: self.open(model)),
            real_server(model.package.root, Settings(port=0, num_slots=SLOTS)) as (_, port),
        ):
            yield f"http://127.0.0.1:{port}"

    def kernel_files(self, model: Model) -> list[Path]:
        del model
        return self.kernels

    def clock(self) -> float:
        return self.seconds
