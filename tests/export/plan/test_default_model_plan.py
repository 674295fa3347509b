"""The default model in the ``trt`` dialect: the same words as the ``ort`` graph, and a plan of its first layers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from export.checkpoint.checkpoint import Checkpoint, TextFiles
from export.checkpoint.lazy_tensor import LazyTensor
from export.checkpoint.precision import PrecisionPlan, WeightFormat
from export.checkpoint.spec import DecoderSpec
from export.graph.ort.graph import write_ort_graph
from export.graph.trt.graph import write_trt_graph
from export.plan.builder import build_plan
from export.plan.library import load_library, make_logger
from export.plan.network import check_network, parse_graph
from export.plan.settings import PlanSettings
from export.plan.targets import Target
from export.progress import SilentReporter
from export.source.opener import open_source
from export.source.recipe import load_recipe
from runtime.package.attention_form import DEFAULT_ATTENTION
from runtime.package.manifest import Package
from runtime.session.cpu.ort_session import OrtOptions, OrtSession
from runtime.session.gpu.static_session import StaticSession
from runtime.session.gpu.trt.runner import TrtRunner
from runtime.session.kv_budget import KVPlan
from runtime.session.session import Session, decode_logits
from runtime.text.tokenizer import Tokenizer
from tests.host_device import HostDevice
from tests.host_tensorrt import HostCudaEngine, HostPlan
from tests.paths import MODELS

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

LENGTH = 128
NUM_TOKENS = 64


@pytest.fixture(scope="module")
def checkpoint(default_package: Package) -> Checkpoint:
    recipe = load_recipe(MODELS / f"{default_package.manifest.name}.toml")
    return open_source(recipe, MODELS, SilentReporter()).checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Room for half a gigabyte per graph, given back at once."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def greedy(session: Session, prompt: list[int]) -> list[int]:
    """The most probable tokens after ``prompt``, which goes in by two chunks."""
    session.prefill(1, np.array(prompt[:5]), 0, 0)
    logits = session.prefill(1, np.array(prompt[5:]), 5, 1)
    tokens = [int(logits[0].argmax())]
    while len(tokens) < NUM_TOKENS:
        logits = decode_logits(session, 1, np.array(tokens[-1:]), np.array([len(prompt) + len(tokens) - 1]))
        tokens.append(int(logits[0].argmax()))
    return tokens


def test_the_float32_twin_writes_the_same_text(checkpoint: Checkpoint, default_package: Package, folder: Path) -> None:
    shape, exact = default_package.manifest.shape, PrecisionPlan(WeightFormat())
    write_ort_graph(checkpoint, exact, LENGTH, folder / "ort", SilentReporter())
    write_trt_graph(checkpoint, exact, LENGTH, folder / "trt", SilentReporter())
    tokenizer = Tokenizer.from_package(default_package)
    prompt = tokenizer.encode("The capital of France is Paris. The capital of Italy is")
    kv = KVPlan(num_slots=2, slot_tokens=LENGTH, bytes_per_token=0, budget_bytes=0)
    reference = OrtSession(folder / "ort/model.onnx", shape, kv, OrtOptions(intra_op_threads=2), "float32")
    expected = greedy(reference, prompt)
    reference.close()
    device = HostDevice()
    plan = HostCudaEngine(folder / "trt/model.onnx", num_slots=2, prefill_tokens=32, capacity=LENGTH)
    runner = TrtRunner(HostPlan(plan, device), device, shape)
    session = StaticSession("tensorrt", runner, device, shape, 2)
    assert greedy(session, prompt) == expected
    session.close()
    assert "Rome" in tokenizer.decode(expected[:4])


@dataclass(frozen=True)
class FirstLayers:
    """A checkpoint of another's first layers, with its embedding and its head."""

    whole: Checkpoint
    num_layers: int

    @property
    def spec(self) -> DecoderSpec:
        return replace(self.whole.spec, num_layers=self.num_layers, layers=self.whole.spec.layers[: self.num_layers])

    def tensor(self, name: str) -> LazyTensor:
        return self.whole.tensor(name)

    def text_files(self) -> TextFiles:
        return self.whole.text_files()


def test_a_plan_compiles_without_a_gpu(checkpoint: Checkpoint, folder: Path) -> None:
    """TensorRT reads the whole graph as it was meant. Two layers of it are compiled: 30 take as long as 15 of these."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is published for Linux on x86-64 only")
    library = load_library("tensorrt_rtx")
    plan = PrecisionPlan(WeightFormat(8, 64), "float16")
    write_trt_graph(checkpoint, plan, 1024, folder / "whole", SilentReporter())
    logger = make_logger(library)
    network = library.module.Builder(logger).create_network(0)
    parse_graph(library, network, logger, folder / "whole/model.onnx", 1024, form=DEFAULT_ATTENTION)
    facts = check_network(library, network, DEFAULT_ATTENTION)
    assert (facts.num_attention, len(facts.cache_pairs)) == (30, 60)
    assert facts.num_dequantize == 30 * 4 + 1  # qkv, o, gate and up, down; head
    assert facts.cache_shape == (3, 1024, 64)

    graph = write_trt_graph(FirstLayers(checkpoint, 2), plan, 1024, folder / "trt", SilentReporter())
    target = Target("sm89", "sm89", library)
    built = build_plan(folder / "trt/model.onnx", 1024, target, PlanSettings(), lambda _fraction: None)
    assert (built.facts.num_attention, built.facts.num_dequantize) == (2, 2 * 4 + 1)
    assert built.facts.cache_shape == facts.cache_shape
    stored = sum(file.stat().st_size for file in (folder / "trt").iterdir())
    assert graph.weight_bytes < len(built.data) < 1.2 * stored
