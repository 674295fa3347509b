"""The rig of a machine with an NVIDIA GPU. Nothing here runs without one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Literal, get_args
from unittest import mock

from api.server_settings import Settings
from export.plan.progress import OnFraction
from export.plan.settings import PlanSettings
from export.plan.store import ensure_plan
from export.plan.targets import parse_targets
from runtime.errors import DeviceError, RecordingRefused
from runtime.loading.backend import BackendChoice, backend_choices
from runtime.loading.gpu import Gpu, find_gpus
from runtime.loading.gpu_loader import gpu_session_factory, plan_gpu_cache
from runtime.loading.self_test import LIMITS
from runtime.package.attention_form import AttentionForm
from runtime.package.manifest import Package
from runtime.session.cpu.ort_session import OrtOptions, OrtSession
from runtime.session.device import Device
from runtime.session.gpu.ort.runner import SKIP_CAPTURE
from runtime.session.kv_budget import KVPlan, KVWishes
from runtime.session.session import Session
from tests.gpu import models
from tests.gpu.checks.rig import MAIN, SLOTS, Model, opened
from tests.security.real_server import real_server

_MAIN_LEN, _TINY_LEN = 4096, 128
_TINY_PREFILL = 64
_CACHE_BYTES = 2**31
_LEAST_BYTES = 2**24
_THREADS = 4


GpuBackend = Literal["cuda", "tensorrt", "tensorrt-rtx"]


class GpuRig:
    """``tests.gpu.checks.rig.Rig`` on the first GPU. Packages and plans are built below ``folder``."""

    prefill_tokens = PlanSettings().prefill_tokens
    memory_noise_bytes = 64 * 2**20

    def __init__(self, backend: GpuBackend, folder: Path, soak_seconds: float) -> None:
        self.backend: GpuBackend = backend
        self.soak_seconds = soak_seconds
        self.tokens_per_s: float | None = None
        self.precisions = ("fp16", "bf16") if backend == "cuda" else self._precisions_of_plans()
        self.compiles_at_run_time = backend == "tensorrt-rtx"
        self._folder = folder
        self._models: dict[tuple[str, str], Model] = {}
        self._choices: dict[str, BackendChoice] = {}

    def _precisions_of_plans(self) -> tuple[str, ...]:
        """What TensorRT compiles for this GPU: codes of floating point need its arithmetic."""
        capability = int(self._gpu().sm[2:])
        newer = [name for name, least in (("fp8", 89), ("nvfp4", 100)) if capability >= least]
        return ("fp16", "bf16", "int8", "int4", *newer)

    def model(self, name: str = MAIN, precision: str = "") -> Model:
        key = name, precision or self.precisions[0]
        if key not in self._models:
            self._models[key] = self._made(*key)
        return self._models[key]

    def _made(self, name: str, precision: str) -> Model:
        if name == MAIN:
            recipe, settings = models.default_recipe(precision, _MAIN_LEN), PlanSettings()
        else:
            recipe = models.tiny_recipe(self._folder, name, precision, _TINY_LEN)
            settings = PlanSettings(prefill_tokens=_TINY_PREFILL)
        package, reference = models.build(recipe, self._folder)
        self._choose(package, settings)
        graph = package.manifest.graphs["ort" if self.backend == "cuda" else "trt"]
        return Model(package, reference, graph.kv_dtype, graph.weight_bytes, LIMITS[graph.kv_dtype])

    def _choose(self, package: Package, settings: PlanSettings) -> None:
        """Have the package's next session run this plan, built if it is not there."""
        if self.backend != "cuda":
            (target,) = parse_targets("current", "tensorrt" if self.backend == "tensorrt" else "tensorrt_rtx")
            ensure_plan(package.root, target, settings, lambda _: nullcontext[OnFraction](lambda _fraction: None))
        self._choices[package.root.name] = next(backend_choices(package, self.backend))

    def forms(self, model: Model) -> Iterator[tuple[str, Session]]:
        try:
            for form in get_args(AttentionForm) if self.backend != "cuda" else ():
                self._choose(model.package, PlanSettings(attention=form))
                # With the test before serving, without which a plan without masks does not open.
                with contextlib.closing(self._opened(model, SLOTS, self_test=True)) as session:
                    yield form, session
        finally:
            self._choose(model.package, PlanSettings())

    def open(self, model: Model, num_slots: int = SLOTS) -> Session:
        return self._opened(model, num_slots, self_test=False)

    def _opened(self, model: Model, num_slots: int, *, self_test: bool) -> Session:
        choice = self._choices[model.package.root.name]
        kv = plan_gpu_cache(model.package, choice, KVWishes(num_slots=num_slots), kv_cache_bytes=_CACHE_BYTES)
        return gpu_session_factory(model.package, choice, kv, self_test=self_test)()

    @contextlib.contextmanager
    def eager(self, model: Model) -> Iterator[Session | None]:
        """A device that refuses to record; for ONNX Runtime the id that stands for neither capture nor replay."""
        if self.backend == "tensorrt-rtx":
            yield None
            return
        no_capture = {"gpu_graph_id": str(SKIP_CAPTURE)}
        refusal = RecordingRefused("asked not to record")
        with (
            mock.patch("runtime.session.gpu.cuda_device.CudaDevice.record", side_effect=refusal),
            mock.patch("runtime.session.gpu.ort.providers.graph_id_entry", return_value=no_capture),
            opened(self, model) as session,
        ):
            yield session

    def reference(self, model: Model, num_slots: int = SLOTS) -> Session:
        manifest = model.package.manifest
        kv = KVPlan(num_slots=num_slots, slot_tokens=manifest.max_model_len, bytes_per_token=0, budget_bytes=0)
        options = OrtOptions(intra_op_threads=_THREADS)
        return OrtSession(model.reference, manifest.shape, kv, options, "float32")

    def device(self) -> Device:
        from runtime.session.gpu.cuda_device import CudaDevice

        return CudaDevice(self._gpu().uuid)

    @contextlib.contextmanager
    def exhausted(self) -> Iterator[None]:
        device, size = self.device(), 2**38
        try:
            while size >= _LEAST_BYTES:
                try:
                    device.allocate(size)
                except DeviceError:
                    size //= 2
            yield
        finally:
            device.close()

    def free_bytes(self) -> int:
        return self._gpu().free_bytes

    @contextlib.contextmanager
    def serve(self, model: Model) -> Iterator[str]:
        settings = Settings(port=0, backend=self.backend, num_slots=SLOTS, self_test=False)
        with real_server(model.package.root, settings) as (_, port):
            yield f"http://127.0.0.1:{port}"

    def kernel_files(self, model: Model) -> list[Path]:
        return sorted((model.package.root / "trt").glob("*.plan.kernels"))

    def clock(self) -> float:
        return time.perf_counter()

    @staticmethod
    def _gpu() -> Gpu:
        return find_gpus().gpus[0]
