"""The self-test before serving: silent on a right plan, and a refusal for each fault that it exists for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NotImplemented_

from runtime.errors import PackageError, PlanError
from runtime.loading.model_loader import ModelOptions, plan_model, session_factory
from runtime.loading.self_test import Agreement, check_against_cpu, check_agreement, compare_sessions
from runtime.package.manifest import Package
from runtime.session.cpu.ort_session import OrtOptions, OrtSession
from runtime.session.gpu.static_session import StaticSession
from runtime.session.gpu.trt.runner import TrtRunner
from runtime.session.kv_budget import KVPlan
from runtime.session.session import FloatArray, Int64Array, Session, SessionInfo
from tests.export.random_checkpoint import plan, write_ort
from tests.export.tiny_package import SPEC, write_package
from tests.fakes import ScriptedSession
from tests.host_tensorrt import HostCudaEngine, HostDevice, HostPlan


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return write_package(tmp_path_factory.mktemp("models") / "tiny", "fp32")


@pytest.fixture
def session(package: Package) -> Iterator[StaticSession]:
    device, plan = HostDevice(), HostCudaEngine(package.path("trt/model.onnx"))
    shape = package.manifest.shape
    runner = TrtRunner(HostPlan(plan, device), device, shape)
    made = StaticSession("tensorrt", runner, device, shape, 4)
    yield made
    made.close()


def cpu_session(package: Package) -> OrtSession:
    kv = KVPlan(num_slots=2, slot_tokens=64, bytes_per_token=0, budget_bytes=0)
    return OrtSession(
        package.path("ort/model.onnx"), package.manifest.shape, kv, OrtOptions(intra_op_threads=1), "float32"
    )


class Faulty:
    """A session with one fault."""

    def __init__(self, inner: Session, fault: str) -> None:
        self.inner, self.fault = inner, fault

    @property
    def info(self) -> SessionInfo:
        return self.inner.info

    @property
    def run_ns(self) -> int:
        return self.inner.run_ns

    def prefill(self, slot: int, token_ids: Int64Array, start: int, num_logits: int) -> FloatArray:
        begin = max(0, start - 1) if self.fault == "second chunk one row early" else start
        return self.inner.prefill(slot, token_ids, begin, num_logits)

    def decode(self, first_slot: int, token_ids: Int64Array, positions: Int64Array) -> FloatArray:
        if self.fault == "decode sees the first key only":
            return self.inner.decode(first_slot, token_ids, np.zeros_like(positions))
        if self.fault == "decode one row late":
            return self.inner.decode(first_slot, token_ids, positions + 1)
        return self.inner.decode(first_slot, token_ids, positions)

    def copy_slot(self, source: int, target: int, num_tokens: int, start: int = 0) -> None:
        if self.fault != "slots stay where they are":
            self.inner.copy_slot(source, target, num_tokens, start)

    def close(self) -> None:
        self.inner.close()


def test_a_right_plan_agrees_to_float32_accuracy(session: StaticSession, package: Package) -> None:
    agreement = check_against_cpu(session, package, 1)
    assert agreement.num_rows == NUM_ROWS
    assert agreement.max_kl < 1e-6
    assert agreement.top1 == 1.0


@pytest.mark.parametrize(
    "fault",
    [
        "second chunk one row early",
        "decode one row late",
        "decode sees the first key only",
        "slots stay where they are",
    ],
)
def test_a_fault_shows_in_the_worst_row(session: StaticSession, package: Package, fault: str) -> None:
    reference = cpu_session(package)
    agreement = compare_sessions(Faulty(session, fault), reference)
    reference.close()
    # Random weights attend weakly, so the limits, which are set for trained ones, are not what is tested here.
    assert agreement.max_kl > 1e-3


NUM_ROWS = 1 + 2 + 1 + 6 * 2 + 1
"""Rows of logits that the script asks of a session with two slots or more."""

LIMITS = [
    ("mean just below", [0.0999] * NUM_ROWS, True),
    ("mean just above", [0.1001] * NUM_ROWS, False),
    ("worst row just below", [0.2999, *[0.0] * (NUM_ROWS - 1)], True),
    ("first row just above", [0.3001, *[0.0] * (NUM_ROWS - 1)], False),
    ("last row just above", [*[0.0] * (NUM_ROWS - 1), 0.3001], False),
]
"""KL in nats of every row, and whether it is let through."""


def verdict(passes: bool) -> AbstractContextManager[object]:
    refusal = pytest.raises(PlanError, match=r"the limits are 0\.1 and 0\.3; serve with --backend cpu")
    return nullcontext() if passes else refusal


@pytest.mark.parametrize(
    ("figures", "passes"),
    [
        ({"mean_kl": 0.1}, True),
        ({"mean_kl": 0.1001}, False),
        ({"mean_kl": float("nan")}, False),
        ({"max_kl": 0.3}, True),
        ({"max_kl": 0.3001}, False),
        ({"max_kl": float("nan")}, False),
        ({"top1": 0.0}, True),
    ],
)
def test_each_figure_alone_is_let_through_up_to_its_limit(figures: dict[str, float], passes: bool) -> None:
    good = Agreement(num_rows=NUM_ROWS, mean_kl=0.01, max_kl=0.05, top1=0.9)
    with verdict(passes):
        check_agreement(dataclasses.replace(good, **dict[str, Any](figures)), "plan")


@pytest.mark.parametrize(("name", "kls", "passes"), LIMITS)
def test_the_figures_of_known_distributions_are_exact(name: str, kls: list[float], passes: bool) -> None:
    """Against logits (0, 0), logits (d, 0) have a KL of log(cosh(d / 2))."""
    rows = iter([np.array([2 * np.arccosh(np.exp(kl)), 0.0], np.float32) for kl in kls])
    candidate = ScriptedSession(lambda _history: next(rows), vocab_size=2)
    reference = ScriptedSession(lambda _history: np.zeros(2, np.float32), vocab_size=2)
    agreement = compare_sessions(candidate, reference)
    assert agreement.num_rows == NUM_ROWS
    assert agreement.mean_kl == pytest.approx(sum(kls) / NUM_ROWS, abs=1e-5), name
    assert agreement.max_kl == pytest.approx(max(kls), abs=1e-5), name
    with verdict(passes):
        check_agreement(agreement, "plan")


class Shifted(Faulty):
    """The CPU's own session with every row's second largest logit raised until the row's KL is the wanted one.

    Raising the logit of a token of probability p by d gives KL = log(1 - p + p exp(d)) - p d.
    """

    def __init__(self, inner: Session, kls: list[float]) -> None:
        super().__init__(inner, "shifted")
        self.kls = iter(kls)

    def prefill(self, slot: int, token_ids: Int64Array, start: int, num_logits: int) -> FloatArray:
        return self._shifted(super().prefill(slot, token_ids, start, num_logits))

    def decode(self, first_slot: int, token_ids: Int64Array, positions: Int64Array) -> FloatArray:
        return self._shifted(super().decode(first_slot, token_ids, positions))

    def _shifted(self, logits: FloatArray) -> FloatArray:
        rows = logits.copy()
        for row in rows:
            second, kl = row.argsort()[-2], next(self.kls)
            p = 1.0 / np.exp(row.astype(np.float64) - row[second]).sum()
            low, high = 0.0, 50.0
            for _ in range(60):
                d = (low + high) / 2
                low, high = (low, d) if np.log(1 - p + p * np.exp(d)) - p * d > kl else (d, high)
            row[second] += low
        return rows


@pytest.mark.parametrize(("name", "kls", "passes"), LIMITS)
def test_a_session_serves_up_to_the_limits(package: Package, name: str, kls: list[float], passes: bool) -> None:
    candidate = Shifted(cpu_session(package), kls)
    with verdict(passes):
        agreement = check_against_cpu(candidate, package, 1)
        assert agreement.mean_kl == pytest.approx(sum(kls) / NUM_ROWS, abs=1e-5), name
    assert next(candidate.kls, None) is None


def test_without_a_graph_for_the_cpu_nothing_is_served(session: StaticSession, package: Package) -> None:
    blind = msgspec.structs.replace(package.manifest, graphs={})
    with pytest.raises(PlanError, match="the package holds no graph for the CPU"):
        check_against_cpu(session, Package(package.root, blind), 1)


def test_a_package_that_the_cpu_cannot_run_is_refused_with_the_way_round(
    session: StaticSession, package: Package, tmp_path: Path
) -> None:
    """ONNX Runtime has no bfloat16 kernels for the CPU: the first matrix product already fails to load."""
    graph = write_ort(SPEC, tmp_path / "ort", plan("bf16"))
    with pytest.raises(NotImplemented_, match="Could not find an implementation for MatMul"):
        ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    info = msgspec.structs.replace(package.manifest.graphs["ort"], kv_dtype="bfloat16", providers=("cuda",))
    half = Package(package.root, msgspec.structs.replace(package.manifest, graphs={"ort": info}))
    with pytest.raises(PlanError, match=r"the CPU cannot run the package's bfloat16 graph; .* with --no-self-test"):
        check_against_cpu(session, half, 1)
    kv = KVPlan(num_slots=2, slot_tokens=64, bytes_per_token=0, budget_bytes=0)
    for attempt in (lambda: plan_model(half, ModelOptions()), lambda: session_factory(half, kv, ModelOptions())):
        with pytest.raises(PackageError, match="is in bfloat16, which the CPU cannot run; serve it on a GPU"):
            attempt()
