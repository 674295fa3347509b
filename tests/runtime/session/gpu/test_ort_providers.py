"""ONNX Runtime's GPU providers: their options, the CUDA graph that each call belongs to, and where its inputs lie."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

from export.package.workspace import write_head
from runtime.errors import DeviceError
from runtime.loading.backend import Backend, BackendChoice
from runtime.loading.gpu import Gpu
from runtime.loading.gpu_loader import fixed_gpu_parts, gpu_session_factory, plan_gpu_cache
from runtime.package.graph_profiles import max_prefill_logits
from runtime.session.cpu.ort_session import OrtOptions, OrtSession
from runtime.session.gpu.ort.providers import (
    cuda_provider,
    plugin_device,
    profile_options,
    tensorrt_provider,
    tensorrt_rtx_provider,
)
from runtime.session.gpu.ort.runner import OrtRunner, Provider
from runtime.session.gpu.ort.session import open_ort_session
from runtime.session.gpu.selection_staging import selection_bytes
from runtime.session.gpu.static_session import StaticSession
from runtime.session.kv_budget import KVPlan, KVWishes
from runtime.session.session import decode_logits
from tests.export.random_checkpoint import ARCHITECTURES, CAPACITY, model_shape, write_ort, write_trt
from tests.export.tiny_package import write_package
from tests.host_cuda_session import HostBinding, HostCudaSession
from tests.host_device import HostDevice, HostError

ADA = Gpu(0, "GPU-00000", "RTX 4090", "8.9", 2**34, 2**34, "595.10")

SHAPE = model_shape(ARCHITECTURES["llama"])


@dataclass
class Parts:
    session: StaticSession
    inner: HostCudaSession
    device: HostDevice


def open_session(graph: Path, provider: Provider, option: str = "gpu_graph_id", spec: str = "llama") -> Parts:
    """A session over the double of ONNX Runtime's, with the provider's own run options."""
    device, made, shape = HostDevice(), list[HostCudaSession](), model_shape(ARCHITECTURES[spec])

    def make(path: Path, options: ort.SessionOptions) -> Any:
        made.append(HostCudaSession(path, options, device, option))
        return made[0]

    doubled = replace(provider, make=make)
    runner = OrtRunner(graph, doubled, device, shape, max_slots=4, prefill_tokens=16, capacity=CAPACITY)
    return Parts(StaticSession(provider.backend, runner, device, shape, 4), made[0], device)


@pytest.fixture(params=["cuda", "ort-tensorrt", "ort-tensorrt-rtx"])
def parts(request: pytest.FixtureRequest, tmp_path: Path) -> Parts:
    spec = ARCHITECTURES["llama"]
    if request.param == "cuda":
        return open_session(write_ort(spec, tmp_path / "ort"), cuda_provider())
    make = tensorrt_provider if request.param == "ort-tensorrt" else tensorrt_rtx_provider
    provider = make(SHAPE, CAPACITY, max_slots=4, prefill_tokens=16, cache_folder=tmp_path)
    option = "gpu_graph_id" if request.param == "ort-tensorrt" else "cuda_graph_annotation_id"
    return open_session(write_trt(spec, tmp_path / "trt"), provider, option)


def decode(session: StaticSession, first_slot: int, *positions: int) -> None:
    decode_logits(session, first_slot, np.full(len(positions), 5), np.array(positions))


def test_each_size_of_decode_calls_has_a_graph_and_prefill_has_none(parts: Parts) -> None:
    session, inner = parts.session, parts.inner
    session.prefill(0, np.arange(20), 0, 1)  # two pieces of at most 16 tokens
    session.prefill(1, np.arange(3), 0, 1)
    decode(session, 0, 20, 3)
    decode(session, 0, 21, 4)
    decode(session, 0, 22)
    decode(session, 1, 5)
    decode(session, 0, 23, 6)
    session.prefill(1, np.arange(2), 7, 1)
    decode(session, 0, 24, 9)
    assert inner.graph_ids == [-1, -1, -1, 1, 1, 2, 1, 1, -1, 1]  # slot 1 alone is a call of two slots
    assert sorted(inner.captured) == [1, 2]
    assert inner.num_executions == len(inner.graph_ids) + len(inner.captured)  # a regular run before each capture


def test_where_shapes_cost_a_compilation_prefill_has_a_few(parts: Parts) -> None:
    parts.session.prefill(0, np.arange(11), 0, 1)
    limits = parts.session._limits
    compiles = parts.session.info.backend == "ort-tensorrt-rtx"
    assert limits.prefill_buckets == ((1, 8, 16) if compiles else ())
    assert limits.logits_buckets == ((1, 16) if compiles else ())


def test_tensorrt_sees_slots_of_one_length(parts: Parts) -> None:
    """It takes no symbolic one; the graph that is for every length gets its number here."""
    lengths = {node.shape[2] for node in parts.inner.get_inputs() if node.name.startswith("past_key_values")}
    assert parts.session.info.backend == "cuda" or lengths == {CAPACITY}


def test_inputs_stay_where_they_are_and_change_in_place(parts: Parts) -> None:
    session, inner, device = parts.session, parts.inner, parts.device
    session.prefill(0, np.arange(7), 0, 0)
    session.prefill(1, np.arange(12), 0, 0)
    decode(session, 0, 7, 12)
    graph, num_blocks = inner.captured[1], len(device.blocks)
    seen = []
    for step in range(1, 4):
        ids = np.array([10 + step, 20 + step])
        decode_logits(session, 0, ids, np.array([7 + step, 12 + step]))
        shape, address = graph.inputs["input_ids"]
        assert shape == (2, 1)
        seen.append(device.view(address, 16).view(np.int64).tolist())
    assert seen == [[11, 21], [12, 22], [13, 23]]
    assert inner.graph_ids[-4:] == [1, 1, 1, 1]
    assert len(device.blocks) == num_blocks  # nothing was allocated after the start
    assert inner.captured[1] is graph


def test_positions_reach_the_graph_in_its_own_terms(tmp_path: Path) -> None:
    """``seqlens_k``, int32: rows after the call, minus 1. The total is the slot's length, captured once and for all."""
    parts = open_session(write_ort(ARCHITECTURES["llama"], tmp_path / "ort"), cuda_provider())
    parts.session.prefill(0, np.arange(7), 0, 0)
    decode_logits(parts.session, 0, np.array([1, 2]), np.array([7, 0]))
    decode_logits(parts.session, 0, np.array([1, 2]), np.array([8, 1]))
    graph = parts.inner.captured[1]
    assert parts.device.view(graph.inputs["seqlens_k"][1], 8).view(np.int32).tolist() == [8, 1]
    assert graph.total == CAPACITY


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_captured_steps_give_the_cpu_sessions_logits(tmp_path: Path, name: str) -> None:
    spec = ARCHITECTURES[name]
    graph = write_ort(spec, tmp_path / "ort")
    kv = KVPlan(num_slots=4, slot_tokens=CAPACITY, bytes_per_token=0, budget_bytes=0)
    reference = OrtSession(graph, model_shape(spec), kv, OrtOptions(intra_op_threads=1), "float32")
    session = open_session(graph, cuda_provider(), spec=name).session
    for one in (session, reference):
        one.prefill(0, np.arange(30), 0, 1)
        one.prefill(1, np.arange(40, 43), 0, 1)
    for step in range(4):
        ids, positions = np.array([step, 9 - step, 3]), np.array([30 + step, 3 + step, step])
        ours, theirs = (decode_logits(one, 0, ids, positions).copy() for one in (session, reference))
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_the_double_refuses_what_a_captured_graph_would_not_see(parts: Parts) -> None:
    binding = HostBinding(parts.device)
    host = np.zeros(2, np.int64)
    with pytest.raises(HostError, match="input_ids is bound in host memory"):
        binding.bind_input("input_ids", "cpu", 0, np.int64, (2, 1), host.ctypes.data)
    with pytest.raises(HostError, match="no block holds 16 bytes"):
        binding.bind_input("input_ids", "cuda", 0, np.int64, (2, 1), host.ctypes.data)
    decode(parts.session, 0, 0)
    with pytest.raises(HostError, match="read again without an upload"):
        parts.session._steps[0].by_size[1].run.enqueue()
    moved: Any = parts.session._steps[0].by_size[1].run
    shape, address = moved.binding.inputs["logits_indices"]
    moved.binding.inputs["logits_indices"] = (shape, address + 8)
    with pytest.raises(HostError, match="graph 1 was captured with other addresses"):
        decode(parts.session, 0, 1)
    moved.binding.outputs["present.1.value"] = moved.binding.outputs["present.1.key"]
    with pytest.raises(HostError, match=r"present\.1\.value and past_key_values\.1\.value must be the same memory"):
        decode(parts.session, 0, 1)
    with pytest.raises(HostError, match="closed before the contexts and bindings"):
        parts.session.close()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The backends whose libraries the loader asked for, in order; none is opened."""
    names: list[str] = []
    monkeypatch.setattr("runtime.loading.gpu_loader.open_libraries", names.append)
    return names


def test_the_loader_opens_checks_and_closes_a_cuda_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    """From the backend's choice to a session that passed the self-test, with captured steps."""
    package, device, made = (
        write_package(tmp_path / "tiny", with_trt=False),
        HostDevice(ordinal=1),
        list[HostCudaSession](),
    )

    def make(path: Path, options: ort.SessionOptions, of_provider: dict[str, str]) -> Any:
        assert of_provider["device_id"] == str(device.ordinal)
        made.append(HostCudaSession(path, options, device, stream=int(of_provider["user_compute_stream"])))
        return made[-1]

    def on(uuid: str) -> HostDevice:
        assert (uuid, opened) == (ADA.uuid, ["cuda"])  # CUDA's library is one of those that are opened
        return device

    monkeypatch.setitem(sys.modules, "runtime.session.gpu.cuda_device", SimpleNamespace(CudaDevice=on))
    monkeypatch.setattr("runtime.session.gpu.ort.providers._cuda_session", make)
    choice = BackendChoice(Backend.CUDA, ("asked for",), ADA)
    kv = plan_gpu_cache(package, choice, KVWishes(num_slots=4), kv_cache_bytes=2**24)
    parts = fixed_gpu_parts(package, choice, KVWishes(num_slots=4))
    rows = 2 * 4 + max_prefill_logits(512)  # two lanes of decode calls, and a prefill
    assert parts["logits"] == rows * package.manifest.shape.vocab_size * 4
    assert parts["selection"] == selection_bytes(2 * 4 + 1, package.manifest.shape.vocab_size)
    session = gpu_session_factory(package, choice, kv, self_test=True)()
    assert (session.info.backend, session.info.num_slots, session.info.max_model_len) == ("cuda", 4, CAPACITY)
    # The longest prefill, one whose token is chosen, and calls of one, two and four slots, each on two lanes.
    assert made[0].graph_ids[:14] == [-1, -1, 1, 2, 1, 2, 3, 4, 3, 4, 5, 6, 5, 6]
    assert made[1].graph_ids[:13] == [1, 2, 3, 2, 3, 4, 5, 4, 5, 6, 7, 6, 7]
    assert (session.info.selects, session.info.runs_ahead) == (True, True)
    assert set(made[0].captured) == {1, 2, 3, 4, 5, 6}  # the script brings no other
    assert len({graph.outputs["logits"] for graph in made[0].captured.values()}) == 6
    session.close()
    assert device.closed


@pytest.mark.parametrize(
    ("has_head", "has_provider", "said"),
    [
        (True, True, ""),
        (False, True, "the package has no selection head"),
        (True, False, "nothing here runs a selection head"),
    ],
)
def test_a_session_says_why_it_chooses_no_tokens(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, has_head: bool, has_provider: bool, said: str
) -> None:
    device = HostDevice()

    def make(path: Path, options: ort.SessionOptions) -> Any:
        return HostCudaSession(path, options, device)

    provider, graph = replace(cuda_provider(), make=make), write_ort(ARCHITECTURES["llama"], tmp_path / "ort")
    head = tmp_path / write_head(tmp_path, SHAPE.vocab_size).path
    kv = KVPlan(num_slots=2, slot_tokens=CAPACITY, bytes_per_token=0, budget_bytes=0)
    with caplog.at_level(logging.INFO, "powertrain.backend"):
        session = open_ort_session(
            graph,
            provider,
            device,
            SHAPE,
            kv=kv,
            prefill_tokens=16,
            head=head if has_head else None,
            head_provider=provider if has_provider else None,
        )
    assert session.info.selects is (not said)
    assert ("each step's logits come to the host" in caplog.text) is bool(said)
    assert said in caplog.text
    session.close()


@pytest.mark.usefixtures("opened")
def test_a_folder_that_cannot_be_made_leaves_no_device_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, device = write_package(tmp_path / "tiny"), HostDevice()
    memory = SimpleNamespace(CudaDevice=lambda _uuid: device)
    monkeypatch.setitem(sys.modules, "runtime.session.gpu.cuda_device", memory)
    choice = BackendChoice(Backend.ORT_TENSORRT, ("asked for",), ADA)
    kv = plan_gpu_cache(package, choice, KVWishes(num_slots=4), kv_cache_bytes=2**24)
    (tmp_path / f".tiny.ort-tensorrt.{kv.rows}").write_text("a file")
    with pytest.raises(FileExistsError):
        gpu_session_factory(package, choice, kv, self_test=False)()
    assert device.closed


def test_a_graph_of_the_other_dialect_is_refused(tmp_path: Path) -> None:
    graph = write_trt(ARCHITECTURES["llama"], tmp_path / "trt")
    with pytest.raises(DeviceError, match="the graph is not one for cuda; export it with --dialect ort,trt"):
        open_session(graph, cuda_provider())


def test_the_tensorrt_providers_are_given_both_profiles(tmp_path: Path) -> None:
    provider = tensorrt_provider(SHAPE, CAPACITY, max_slots=4, prefill_tokens=16, cache_folder=tmp_path)
    assert provider.run_entries(True, 4) == {"gpu_graph_id": "4"}
    options = profile_options("trt_profile", SHAPE, CAPACITY, 4, 16)
    shapes = options["trt_profile_max_shapes"].split(",")
    assert shapes[:4] == ["input_ids:4x1", "write_indices:4", "logits_indices:4", "past_key_values.0.key:4x2x64x16"]
    assert shapes[len(shapes) // 2 :][:3] == ["input_ids:1x16", "write_indices:1", "logits_indices:16"]
    rtx = tensorrt_rtx_provider(SHAPE, CAPACITY, max_slots=4, prefill_tokens=16, cache_folder=tmp_path)
    assert rtx.run_entries(True, 4) == {"nv_profile_index": "0", "cuda_graph_annotation_id": "4"}
    assert rtx.run_entries(False, -1) == {"nv_profile_index": "1", "cuda_graph_annotation_id": "-1"}


class FakeSession:
    """``onnxruntime.InferenceSession`` where the CUDA provider is there and refuses to capture, or fails otherwise."""

    asked: list[dict[str, str]]
    problem: str

    def __init__(self, _graph: str, _options: ort.SessionOptions, providers: list[tuple[str, dict[str, str]]]) -> None:
        self.providers = [providers[0][0], "CPUExecutionProvider"]
        type(self).asked.append(providers[0][1])
        if "enable_cuda_graph" in providers[0][1] and self.problem:
            raise Fail(self.problem)

    def get_providers(self) -> list[str]:
        return self.providers


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeSession]:
    FakeSession.asked, FakeSession.problem = [], ""
    monkeypatch.setattr(ort, "InferenceSession", FakeSession)
    return FakeSession


def test_tensorrt_is_asked_for_capture_and_to_keep_what_it_compiles(fake: type[FakeSession], tmp_path: Path) -> None:
    provider = tensorrt_provider(SHAPE, CAPACITY, max_slots=4, prefill_tokens=16, cache_folder=tmp_path, device_id=2)
    provider.make(Path("model.onnx"), ort.SessionOptions())
    profiles = profile_options("trt_profile", SHAPE, CAPACITY, 4, 16)
    assert fake.asked == [
        {
            **profiles,
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(tmp_path),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(tmp_path),
            "trt_cuda_graph_enable": "1",
            "device_id": "2",
        }
    ]


def test_cuda_asks_for_capture_on_its_gpu(fake: type[FakeSession]) -> None:
    cuda_provider(2).make(Path("model.onnx"), ort.SessionOptions())
    assert [(options["enable_cuda_graph"], options["device_id"]) for options in fake.asked] == [("1", "2")]


def test_on_a_stream_that_is_given_cuda_queues_and_does_not_wait(fake: type[FakeSession]) -> None:
    provider, own = cuda_provider(2, 0x7F00), cuda_provider(2)
    for one in (provider, own):
        one.make(Path("model.onnx"), ort.SessionOptions())
    assert [options.get("user_compute_stream") for options in fake.asked] == [str(0x7F00), None]
    assert provider.run_entries(True, 3) == {"gpu_graph_id": "3", "disable_synchronize_execution_providers": "1"}
    assert own.run_entries(True, 3) == {"gpu_graph_id": "3"}
    assert (provider.shares_stream, own.shares_stream) == (True, False)


def test_a_provider_binds_memory_of_the_gpu_that_it_runs_on(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"max_slots": 4, "prefill_tokens": 16, "cache_folder": tmp_path, "device_id": 2}
    made = [make(SHAPE, CAPACITY, **sizes) for make in (tensorrt_provider, tensorrt_rtx_provider)]
    assert [provider.device_id for provider in (*made, cuda_provider(2))] == [2, 2, 2]


def test_the_plug_ins_device_is_the_one_of_the_gpu() -> None:
    first, second, silent = (SimpleNamespace(ep_options=one) for one in ({"device_id": "0"}, {"device_id": "1"}, {}))
    assert plugin_device([first, second], 1) is second
    assert plugin_device([second, first], 0) is first
    assert plugin_device([first, second], 2) is None
    assert plugin_device([silent], 0) is silent
    assert plugin_device([silent], 1) is None
    assert plugin_device([silent, silent], 0) is None
    assert plugin_device([], 0) is None


def test_a_graph_that_cannot_be_captured_runs_without_and_says_so(
    fake: type[FakeSession], caplog: pytest.LogCaptureFixture
) -> None:
    fake.problem = "This session cannot use the graph capture feature as requested by the user"
    with caplog.at_level(logging.WARNING, "powertrain.backend"):
        cuda_provider().make(Path("model.onnx"), ort.SessionOptions())
    assert [options.get("enable_cuda_graph") for options in fake.asked] == ["1", None]
    assert [options["device_id"] for options in fake.asked] == ["0", "0"]
    assert "no CUDA graphs, every decode step launches its kernels one by one: This session cannot" in caplog.text


def test_another_failure_is_not_taken_for_that(fake: type[FakeSession]) -> None:
    fake.problem = "out of memory"
    with pytest.raises(Fail, match="out of memory"):
        cuda_provider().make(Path("model.onnx"), ort.SessionOptions())
    assert len(fake.asked) == 1
