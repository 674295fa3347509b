"""The acceptance's checks on doubles: each passes on what is right, and finds the faults that it exists for."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.errors import DeviceError, DeviceOutOfMemory, PlanError
from runtime.session.session import FloatArray, Int64Array, Session, decode_logits
from tests.around_session import AroundSession
from tests.gpu import models
from tests.gpu.checks import CHECKS, churn, soak, speed
from tests.gpu.checks.rig import CheckFailed, Model
from tests.gpu.host_rig import CAPACITY, CardDevice, HostRig
from tests.paths import ROOT

LOAD, SOAK, SPEED = "slots under HTTP load with aborts", "soak", "speed"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much load as shows a fault, not a fault in a thousand."""
    monkeypatch.setattr(churn, "_ROUNDS", 1)
    monkeypatch.setattr(churn, "_CLIENTS", 6)
    monkeypatch.setattr(churn, "_PROMPTS", 3)
    monkeypatch.setattr(soak, "_PER_ROUND", 8)
    monkeypatch.setattr(speed, "_COPY_BYTES", 2**18)


@pytest.mark.parametrize("name", sorted(set(CHECKS) - {SPEED}))
def test_what_is_right_passes(folder: Path, name: str) -> None:
    assert CHECKS[name](HostRig(folder, "tensorrt", precisions=("fp32", "fp16", "int8", "int4")))


@pytest.mark.parametrize("name", ["golden rows, one slot", "decode: every range of slots", "replay equals eager"])
def test_a_session_of_onnx_runtime_passes(folder: Path, name: str) -> None:
    """What is above a session is the same for every backend."""
    assert CHECKS[name](HostRig(folder, "cuda"))


@dataclass
class Faulty(AroundSession):
    """A session that changes what goes in, or what comes out."""

    fault: str
    calls: int = 0
    kept: list[Any] = field(default_factory=list)

    def prefill(self, slot: int, token_ids: Int64Array, start: int, num_logits: int) -> FloatArray:
        self.calls += 1
        if self.fault == "later chunks begin one row early":
            start = max(0, start - 1)
        if self.fault == "a full chunk lacks its last token" and len(token_ids) == 16:
            token_ids = np.append(token_ids[:-1], token_ids[0])
        if self.fault == "long prompts lose their second chunk" and len(token_ids) > 32:
            token_ids = np.concatenate([token_ids[:16], token_ids[:16], token_ids[32:]])
        rows = self.inner.prefill(slot, token_ids, start, num_logits)
        if self.fault == "the model changes after a while" and self.calls > 40:
            return rows + np.float32(1e-6)
        return rows

    def decode(self, first_slot: int, token_ids: Int64Array, positions: Int64Array) -> FloatArray:
        self.calls += 1
        first_slot, token_ids, positions = self._changed(first_slot, token_ids, positions)
        rows = decode_logits(self.inner, first_slot, token_ids, positions)
        return self._answer(rows, first_slot)

    def _changed(self, first: int, ids: Int64Array, positions: Int64Array) -> tuple[int, Int64Array, Int64Array]:
        if self.fault == "one row late":
            positions = np.minimum(positions + 1, CAPACITY - 1)
        if self.fault == "the last row is never written":
            positions = np.minimum(positions, CAPACITY - 2)
        if self.fault == "one position for all":
            positions = np.full_like(positions, positions[0])
        if self.fault == "ranges begin at the first slot":
            first = 0
        if self.fault == "a replay reads the inputs that it was recorded with":
            key = first, len(ids)
            known = dict(self.kept)
            if key in known:
                ids = known[key]
            self.kept.append((key, ids))
        return first, ids, positions

    def _answer(self, rows: FloatArray, first: int) -> FloatArray:
        if self.fault == "a replay rounds differently" and self.calls > 42:
            return rows + np.float32(1e-6)
        if self.fault == "the last slot hears its neighbour" and first + len(rows) == 4 and len(rows) > 1:
            rows = rows.copy()
            rows[-1] += np.float32(1e-3) * rows[-2]
        if self.fault == "neighbours are exchanged" and len(rows) > 1:
            return rows[::-1].copy()
        if self.fault == "logits of the step before":
            self.kept.append(rows.copy())
            return self.kept[-2] if len(self.kept) > 1 and self.kept[-2].shape == rows.shape else rows
        if self.fault == "the buffer is written to later":
            return rows.view(Late)
        return rows

    def copy_slot(self, source: int, target: int, num_tokens: int, start: int = 0) -> None:
        if self.fault == "a copy in pieces moves the first one only" and start:
            return
        self.inner.copy_slot(source, target, num_tokens, start)


class Late(np.ndarray[tuple[int, ...], np.dtype[np.float32]]):
    """Logits that a device still writes to when they were returned."""

    def copy(self, order: Any = "C") -> Any:
        kept = np.asarray(self).copy(order)
        np.asarray(self)[...] += np.float32(0.5) * np.arange(self.shape[-1], dtype=np.float32)
        return kept


FAULTS = [
    ("golden rows, one slot", "logits of the step before"),
    ("golden rows, every form of attention", "masks are left out wrongly"),
    ("prefill: a chunk, a full one, several", "a full chunk lacks its last token"),
    ("prefill: a chunk, a full one, several", "long prompts lose their second chunk"),
    ("prefill: a prompt in two calls", "later chunks begin one row early"),
    ("decode: ragged, to a slot's last row", "one row late"),
    ("decode: ragged, to a slot's last row", "the last row is never written"),
    ("decode: ragged, to a slot's last row", "one position for all"),
    ("decode: ragged, to a slot's last row", "a copy in pieces moves the first one only"),
    ("decode: every range of slots", "ranges begin at the first slot"),
    ("decode: every range of slots", "neighbours are exchanged"),
    ("decode: equal slots, equal logits", "the last slot hears its neighbour"),
    ("replay equals eager", "a replay reads the inputs that it was recorded with"),
    ("replay equals eager", "a replay rounds differently"),
    ("sliding windows", "one row late"),
    ("heads of 64, 128 and 256", "one row late"),
    ("penalties, top_p, logprobs", "the buffer is written to later"),
    (LOAD, "neighbours are exchanged"),
    (SOAK, "the model changes after a while"),
]


def _of_this_form(rig: HostRig, fault: str) -> str:
    """What the fault amounts to in the session that is opened: one is of a single form."""
    if fault != "masks are left out wrongly":
        return fault
    return "one row late" if rig.form == "lengths" else ""


@pytest.mark.parametrize(("name", "fault"), FAULTS)
def test_a_fault_is_found(folder: Path, name: str, fault: str) -> None:
    rig = HostRig(folder, "tensorrt", wrap=lambda session: Faulty(session, _of_this_form(rig, fault)))
    with pytest.raises((CheckFailed, PlanError)):
        CHECKS[name](rig)


@dataclass
class OtherModelRig(HostRig):
    """Opens sessions on another model's package than the reference's."""

    other: str = ""

    def model(self, name: str = "main", precision: str = "") -> Model:
        right = super().model(name, precision)
        return replace(right, package=super().model(self.other, precision).package)


@pytest.mark.parametrize(
    ("name", "shape", "changes"),
    [("sliding windows", "mistral", {"sliding_window": 8}), ("heads of 64, 128 and 256", "qwen3", {"rope_theta": 9e3})],
)
def test_a_graph_that_is_a_little_wrong_is_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, shape: str, changes: dict[str, Any]
) -> None:
    """A window that is one token too wide, and a rope that turns a little too fast."""
    if shape == "qwen3":
        changes = {"head_dim": 64, **changes}
    monkeypatch.setitem(models.SHAPES, f"wrong {shape}", (shape, changes))
    with pytest.raises(CheckFailed, match=r"KL .* nats against the CPU's float32"):
        CHECKS[name](OtherModelRig(folder, other=f"wrong {shape}"))


class SelfRecordingRig(HostRig):
    """Its library records by itself, so there is no eager session to compare with."""

    @contextlib.contextmanager
    def eager(self, model: Model) -> Iterator[Session | None]:
        del model
        yield None


def test_a_library_that_records_by_itself_is_compared_with_itself(folder: Path) -> None:
    check = CHECKS["replay equals eager"]
    assert check(SelfRecordingRig(folder)) == "60 calls compared with each other: the library records by itself"
    for fault, text in (
        ("a replay reads the inputs that it was recorded with", "two inputs give one answer"),
        ("a replay rounds differently", "the bits differ"),
    ):
        with pytest.raises(CheckFailed, match=text):
            check(SelfRecordingRig(folder, wrap=lambda session, fault=fault: Faulty(session, fault)))  # type: ignore[misc]


class EndlessCard(CardDevice):
    """Gives memory that is not there."""

    def allocate(self, num_bytes: int) -> int:
        return super(CardDevice, self).allocate(num_bytes)


class LeakingCard(CardDevice):
    """Keeps its memory when it is closed early."""

    def close(self) -> None:
        kept = dict(self.blocks)
        super().close()
        if self.rig.taken:
            self.rig.devices.append(CardDevice(rig=self.rig, blocks=kept))

    def allocate(self, num_bytes: int) -> int:
        if self.rig.taken and self.blocks:
            raise DeviceOutOfMemory("1 byte too many")
        return super(CardDevice, self).allocate(num_bytes)


class SilentCard(CardDevice):
    """Says that it failed, and nothing else."""

    def allocate(self, num_bytes: int) -> int:
        if self.rig.taken:
            raise DeviceError("allocation failed")
        return super().allocate(num_bytes)


@pytest.mark.parametrize(
    ("card", "text"),
    [
        (EndlessCard, "opened on a card without memory"),
        (LeakingCard, "the refusal left [0-9,]+ bytes taken"),
        (SilentCard, "not one line with the numbers"),
    ],
)
def test_a_bad_refusal_is_found(folder: Path, card: Callable[..., CardDevice], text: str) -> None:
    with pytest.raises(CheckFailed, match=text):
        CHECKS["out of memory at load"](HostRig(folder, make_device=card))


def test_a_restart_that_compiles_again_or_computes_otherwise_is_found(folder: Path, tmp_path: Path) -> None:
    check, kernels, starts = CHECKS["restart with a kernel cache"], tmp_path / "sm89.plan.kernels", list[int]()
    with pytest.raises(CheckFailed, match="nothing was kept"):
        check(HostRig(folder, compiles_at_run_time=True))

    def writing(session: Session) -> Session:
        kernels.write_bytes(kernels.read_bytes() + b"k" if grows else b"kernels")
        return session

    grows = False
    rig = HostRig(folder, compiles_at_run_time=True, kernels=[kernels], wrap=writing)
    kernels.write_bytes(b"")
    assert check(rig) == "7 bytes of kernels kept"
    grows = True
    with pytest.raises(CheckFailed, match=r"the second start compiled again: sm89\.plan\.kernels"):
        check(rig)

    def drifting(session: Session) -> Session:
        starts.append(0)
        return Faulty(session, "a replay rounds differently", calls=100 if len(starts) > 1 else -100)

    with pytest.raises(CheckFailed, match="the logits after a restart: the bits differ"):
        check(HostRig(folder, wrap=drifting))


def test_memory_that_a_soak_loses_is_found(folder: Path) -> None:
    def losing(session: Session) -> Session:
        lost: list[CardDevice] = []

        class Losing(Faulty):
            def prefill(self, *call: Any) -> FloatArray:
                if not lost:
                    lost.append(CardDevice(rig=rig))
                    rig.devices.append(lost[0])
                lost[0].allocate(64)
                return super().prefill(*call)

        return Losing(session, "")

    rig = HostRig(folder, wrap=losing)
    with pytest.raises(CheckFailed, match="bytes of the card's memory were lost in 1 rounds"):
        CHECKS[SOAK](rig)


@dataclass(eq=False)
class TimedCard(CardDevice):
    """Copies at 1 GB/s."""

    def copy_rows(self, target: int, source: int, row_bytes: int, pitch_bytes: int, num_rows: int) -> None:
        self.rig.seconds += 2 * row_bytes * num_rows / 1e9
        super().copy_rows(target, source, row_bytes, pitch_bytes, num_rows)


@pytest.mark.parametrize(("factor", "passes"), [(1.01, True), (0.99, False)])
def test_the_share_of_the_bandwidth_is_exact_and_has_a_floor(folder: Path, factor: float, passes: bool) -> None:
    """A token at position 24 + 4 + 16 on average reads the weights and 44 rows; at the floor it takes 20 times as long
    as a card of 1 GB/s needs to read that."""
    seconds_per_token = 0.0

    def timed(session: Session) -> Session:
        class Timed(Faulty):
            def decode(self, *call: Any) -> FloatArray:
                rig.seconds += seconds_per_token
                return super().decode(*call)

        return Timed(session, "")

    rig = HostRig(folder, make_device=TimedCard, wrap=timed)
    model = rig.model()
    read = model.weight_bytes + 44 * 2 * 2 * 2 * 16 * 4  # kinds, layers, heads, head_dim, bytes
    seconds_per_token = read / 1e9 / speed.FLOOR / factor
    if passes:
        assert f"= {speed.FLOOR * factor:.3f}, the floor is {speed.FLOOR}" in CHECKS[SPEED](rig)
    else:
        with pytest.raises(CheckFailed, match=f"the floor is {speed.FLOOR}"):
            CHECKS[SPEED](rig)
    assert rig.tokens_per_s == pytest.approx(1 / seconds_per_token)


def test_an_answer_may_leave_the_lone_one_at_a_tie_only() -> None:
    alone = [
        churn.Token("a", {"a": -0.1, "b": -3.0}),
        churn.Token("c", {"c": -0.8, "d": -1.0}),
        churn.Token("e", {"e": 0}),
    ]
    churn.compare(alone, alone, "same")
    other = churn.Token("x", {"x": 0.0})
    churn.compare(alone, [alone[0], churn.Token("d", {}), other], "left at a tie")
    for answer, text in (
        ([churn.Token("b", {}), *alone[1:]], r"token 0 is 'b', alone it was 'a', 2\.9 nats likelier"),
        ([alone[0], other, alone[2]], "token 1 is 'x'"),
        (alone[:2], "2 tokens came, 3 were asked for"),
    ):
        with pytest.raises(CheckFailed, match=text):
            churn.compare(alone, answer, "prompt 0")


def test_asked_for_without_a_gpu_it_fails_and_says_so_in_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file itself, in this process: another one takes longer to import all that than the rest of this module."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(ROOT)
    report, words = (
        tmp_path / "report.json",
        ["-q", "-k", "soak or speed", "-p", "no:cacheprovider", "-p", "no:logging", "--assert=plain"],
    )
    words += ["-o", "addopts=--import-mode=importlib", "--gpu-backend=tensorrt-rtx", f"--gpu-report={report}"]
    assert pytest.main(["tests/gpu/test_gpu_acceptance.py", *words]) == pytest.ExitCode.TESTS_FAILED
    found = json.loads(report.read_text())
    assert (found["backend"], found["gpu"], found["tokens_per_s"]) == ("tensorrt-rtx", "", None)
    assert [(check["name"], check["outcome"]) for check in found["checks"]] == [(SOAK, "failed"), (SPEED, "failed")]
    assert "--gpu-backend tensorrt-rtx needs a GPU: no NVIDIA driver" in found["checks"][0]["detail"]
