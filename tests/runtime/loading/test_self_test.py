"""The self-test before serving: silent on a right plan, and a refusal for each fault that it exists for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NotImplemented_

from runtime.errors import PackageError, PlanError
from runtime.loading.golden_script import golden_calls, last_rows, moved_rows
from runtime.loading.model_loader import ModelOptions, plan_model, session_factory
from runtime.loading.self_test import LIMITS, MOVED_KL, Agreement, check_agreement, check_session, compare_with_golden
from runtime.package.golden import LEAST_LOG, Distributions, GoldenRows, read_golden
from runtime.package.manifest import Package
from runtime.session.cpu.ort_session import OrtOptions, OrtSession
from runtime.session.distribution import best_tokens, gathered_kl, gathered_log_probs
from runtime.session.kv_budget import KVPlan
from runtime.session.session import FloatArray, Int64Array, decode_logits
from tests.around_session import AroundSession
from tests.export.random_checkpoint import plan, write_ort
from tests.export.tiny_package import SPEC, write_package


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return write_package(tmp_path_factory.mktemp("models") / "tiny", "fp32")


@pytest.fixture(scope="module")
def golden(package: Package) -> GoldenRows:
    return read_golden(package)


def cpu_session(package: Package, num_slots: int = 4, slot_tokens: int = 64) -> OrtSession:
    kv = KVPlan(num_slots=num_slots, slot_tokens=slot_tokens, bytes_per_token=0, budget_bytes=0)
    options = OrtOptions(intra_op_threads=1, spin_us=0)
    return OrtSession(package.path("ort/model.onnx"), package.manifest.shape, kv, options, "float32")


@pytest.fixture
def session(package: Package) -> Iterator[OrtSession]:
    made = cpu_session(package)
    yield made
    made.close()


NUM_ROWS = 168
"""Of a package of 64 tokens: two runs of 16 of the long text, and 40, 32, 32 and 32 rows of the short ones."""


@dataclasses.dataclass
class Faulty(AroundSession):
    """A session with one fault, which remembers what it was asked."""

    fault: str = ""
    calls: list[tuple[str, int, int, int]] = dataclasses.field(default_factory=list)

    def prefill(self, slot: int, token_ids: Int64Array, start: int, num_logits: int) -> FloatArray:
        self.calls.append(("prefill", slot, start, len(token_ids)))
        begin = max(0, start - 1) if self.fault == "second chunk one row early" else start
        rows = self.inner.prefill(slot, token_ids, begin, num_logits)
        return rows[::-1] if self.fault == "rows of a prompt in the wrong order" else rows

    def decode(self, first_slot: int, token_ids: Int64Array, positions: Int64Array) -> FloatArray:
        self.calls.append(("decode", first_slot, int(positions[0]), len(token_ids)))
        if self.fault == "decode sees the first key only":
            return decode_logits(self.inner, first_slot, token_ids, np.zeros_like(positions))
        if self.fault == "decode one row late":
            return decode_logits(self.inner, first_slot, token_ids, np.minimum(positions + 1, 63))
        if self.fault == "the last row is never written" and positions.max() == 63:
            return decode_logits(self.inner, first_slot, token_ids, np.minimum(positions, 62))
        rows = decode_logits(self.inner, first_slot, token_ids, positions)
        return rows[::-1] if self.fault == "answers of a batch exchanged" else rows

    def copy_slot(self, source: int, target: int, num_tokens: int, start: int = 0) -> None:
        self.calls.append(("copy", source, target, num_tokens))
        if self.fault == "slots stay where they are":
            return
        if self.fault == "a moved slot lacks its second half" and start:
            return
        if self.fault == "a moved slot lacks its last row":
            num_tokens -= 1
        self.inner.copy_slot(source, target, num_tokens, start)


def test_a_right_session_agrees_to_float32_accuracy(session: OrtSession, package: Package) -> None:
    agreement = check_session(session, package, "float32")
    assert agreement.num_rows == NUM_ROWS
    assert max(agreement.max_kl, agreement.max_last_kl) < 1e-6
    assert agreement.top1 == 1.0


FAULTS = [
    "second chunk one row early",
    "rows of a prompt in the wrong order",
    "decode one row late",
    "decode sees the first key only",
    "answers of a batch exchanged",
    "slots stay where they are",
    "a moved slot lacks its second half",
]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_shows_in_the_worst_row(session: OrtSession, golden: GoldenRows, fault: str) -> None:
    # Random weights attend weakly, so the limits, which are set for trained ones, are not what is tested here.
    assert compare_with_golden(Faulty(session, fault), golden).max_kl > 1e-3


def test_a_fault_in_a_slots_last_row_shows(session: OrtSession, golden: GoldenRows) -> None:
    short = dataclasses.replace(golden, texts=tuple(text[:40] for text in golden.texts))
    keep = golden.places[:, 1] < 40
    rows = Distributions(*(part[keep] for part in dataclasses.astuple(golden.rows)))
    short = dataclasses.replace(short, places=golden.places[keep], rows=rows)
    agreement = compare_with_golden(Faulty(session, "the last row is never written"), short)
    assert agreement.max_kl < 1e-6  # of the golden rows, which end before
    assert agreement.max_last_kl > 1e-4


def test_a_row_that_a_copy_lacks_shows(session: OrtSession, golden: GoldenRows) -> None:
    agreement = compare_with_golden(Faulty(session, "a moved slot lacks its last row"), golden)
    assert agreement.max_moved_kl > MOVED_KL
    assert compare_with_golden(session, golden).max_moved_kl < 1e-12


@pytest.mark.parametrize(
    ("num_slots", "slot_tokens", "num_rows"),
    [(1, 64, NUM_ROWS), (2, 64, NUM_ROWS), (3, 40, 16 + 3 * 8 + 8 + 25), (4, 16, 1)],
)
def test_a_session_is_asked_for_what_it_has_room_for(
    package: Package, golden: GoldenRows, num_slots: int, slot_tokens: int, num_rows: int
) -> None:
    """With 40 tokens a slot, the long text has 16 rows left and the short ones 16, 11, 8 and 25: the first three are
    decoded together as far as the third goes, and the first goes on alone when it was moved."""
    watched = Faulty(cpu_session(package, num_slots, slot_tokens))
    rows = [row for rows, _ in golden_calls(watched, golden) for row in rows]
    assert len(rows) == len(set(rows)) == num_rows
    assert max(start + length for kind, _, start, length in watched.calls if kind == "prefill") <= slot_tokens
    assert any(call[0] == "copy" for call in watched.calls) is (num_slots > 1)
    assert compare_with_golden(watched, golden).max_kl < 1e-6
    watched.close()


def test_the_script_uses_all_that_can_be_wrong(session: OrtSession, golden: GoldenRows) -> None:
    watched = Faulty(session)
    for _ in golden_calls(watched, golden):
        pass
    moved_rows(watched, golden)
    last_rows(watched, golden)
    prefills = [call for call in watched.calls if call[0] == "prefill"]
    decodes = {(first, count) for kind, first, _, count in watched.calls if kind == "decode"}
    assert decodes == {(3, 1), (0, 4), (0, 1), (1, 3), (1, 1)}  # all slots, two ranges, the last and a moved slot
    assert {slot for _, slot, *_ in prefills} == {0, 1, 2, 3}
    assert len([start for _, _, start, _ in prefills if start]) >= 5  # prompts that go on
    assert [call for call in watched.calls if call[0] == "copy"] == [
        *(("copy", 0, 1, count) for count in (28, 56)),
        *(("copy", 0, 1, count) for count in (21, 43)),
    ]
    assert watched.calls[-5:] == [("prefill", 3, 52, 12), *(("decode", 3, position, 1) for position in range(60, 64))]


def verdict(passes: bool, limits: str) -> AbstractContextManager[object]:
    refusal = pytest.raises(
        PlanError, match=rf"the limits are {limits}; a slot and its copy .*; serve with --backend cpu"
    )
    return nullcontext() if passes else refusal


@pytest.mark.parametrize(
    ("float_type", "text"),
    [("float16", r"0\.002 and 0\.05"), ("float32", r"0\.002 and 0\.05"), ("bfloat16", r"0\.02 and 0\.2")],
)
@pytest.mark.parametrize(
    ("figure", "of_limit", "passes"),
    [
        ("mean_kl", 1.0, True),
        ("mean_kl", 1.001, False),
        ("mean_kl", math.nan, False),
        ("max_kl", 1.0, True),
        ("max_kl", 1.001, False),
        ("max_kl", math.nan, False),
        ("max_last_kl", 1.0, True),
        ("max_last_kl", 1.001, False),
        ("max_last_kl", math.nan, False),
        ("max_moved_kl", 1.0, True),
        ("max_moved_kl", 1.001, False),
        ("max_moved_kl", math.nan, False),
    ],
)
def test_each_figure_alone_is_let_through_up_to_its_limit(
    float_type: str, text: str, figure: str, of_limit: float, passes: bool
) -> None:
    limits = LIMITS[float_type]
    good = Agreement(num_rows=NUM_ROWS, mean_kl=1e-5, max_kl=1e-4, max_last_kl=1e-4, max_moved_kl=0.0, top1=0.0)
    value = of_limit * {"mean_kl": limits.mean, "max_moved_kl": MOVED_KL}.get(figure, limits.worst)
    with verdict(passes, text):
        check_agreement(dataclasses.replace(good, **dict[str, Any]({figure: value})), limits, "plan")


class Shifted(Faulty):
    """A right session with one row's second token, of probability p, raised until the row's KL is the wanted one.

    Raising its logit by d gives KL = log(1 - p + p exp(d)) - p d.
    """

    kl: float = 0.0

    def prefill(self, slot: int, token_ids: Int64Array, start: int, num_logits: int) -> FloatArray:
        rows = super().prefill(slot, token_ids, start, num_logits)
        if len(self.calls) > 1:  # the first run of rows of the long text
            return rows
        row = rows[0].astype(np.float64)
        second = int(row.argsort()[-2])
        p = 1.0 / np.exp(row - row[second]).sum()
        low, high = 0.0, 50.0
        for _ in range(60):
            d = (low + high) / 2
            low, high = (low, d) if np.log(1 - p + p * np.exp(d)) - p * d > self.kl else (d, high)
        rows = rows.copy()
        rows[0, second] += np.float32(low)
        return rows


@pytest.mark.parametrize("float_type", sorted(LIMITS))
@pytest.mark.parametrize(("of_limit", "passes"), [(0.99, True), (1.01, False)])
def test_a_session_serves_up_to_the_limits(
    session: OrtSession, package: Package, float_type: str, of_limit: float, passes: bool
) -> None:
    limits = LIMITS[float_type]
    shifted = Shifted(session)
    shifted.kl = of_limit * limits.worst
    with verdict(passes, f"{limits.mean:g} and {limits.worst:g}"):
        assert check_session(shifted, package, float_type).max_kl == pytest.approx(shifted.kl, rel=1e-3)


def test_tokens_outside_the_best_count_as_one() -> None:
    """p = (1/2, 1/4, 1/8, 1/8), q = (1/4, 1/4, 1/4, 1/4), one token kept: KL of (1/2, 1/2) against (1/4, 3/4)."""
    p, q = np.log(np.array([[4, 2, 1, 1]], np.float32)), np.zeros((1, 4), np.float32)
    best = best_tokens(p, 1)
    assert best.tolist() == [[0]]
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert gathered_kl(gathered_log_probs(p, best), gathered_log_probs(q, best)) == pytest.approx([expected], abs=1e-7)
    whole = best_tokens(p, 4)
    assert whole.tolist() == [[0, 1, 2, 3]]  # the smaller id among equals
    assert gathered_log_probs(p, whole)[1].tolist() == pytest.approx([LEAST_LOG])
    kl = 0.5 * math.log(2) + 2 * 0.125 * math.log(0.5)
    assert gathered_kl(gathered_log_probs(p, whole), gathered_log_probs(q, whole)) == pytest.approx([kl], abs=1e-7)
    broken = np.array([[0, np.nan, 0, 0]], np.float32)
    assert np.isnan(gathered_kl(gathered_log_probs(p, best), gathered_log_probs(broken, best))).all()


def test_without_golden_rows_nothing_is_served(session: OrtSession, package: Package) -> None:
    blind = Package(package.root, msgspec.structs.replace(package.manifest, golden=None))
    wanted = r"holds no golden rows; make it anew with this 'powertrain export', or start with --no-self-test"
    with pytest.raises(PlanError, match=wanted):
        check_session(session, blind, "float32")


def test_a_package_that_the_cpu_cannot_run_is_refused_with_the_way_round(package: Package, tmp_path: Any) -> None:
    """ONNX Runtime has no bfloat16 kernels for the CPU: the first matrix product already fails to load."""
    graph = write_ort(SPEC, tmp_path / "ort", plan("bf16"))
    with pytest.raises(NotImplemented_, match="Could not find an implementation for MatMul"):
        ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    info = msgspec.structs.replace(package.manifest.graphs["ort"], kv_dtype="bfloat16", providers=("cuda",))
    half = Package(package.root, msgspec.structs.replace(package.manifest, graphs={"ort": info}))
    kv = KVPlan(num_slots=2, slot_tokens=64, bytes_per_token=0, budget_bytes=0)
    for attempt in (lambda: plan_model(half, ModelOptions()), lambda: session_factory(half, kv, ModelOptions())):
        with pytest.raises(PackageError, match="is in bfloat16, which the CPU cannot run; serve it on a GPU"):
            attempt()
