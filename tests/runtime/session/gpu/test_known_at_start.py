"""What a session on a plan costs is known once it is open: memory, contexts, compiled shapes, recordings."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from runtime.errors import DeviceError
from runtime.session.cpu.ort_session import OrtOptions, OrtSession
from runtime.session.gpu.static_session import StaticSession
from runtime.session.gpu.trt import bound_run
from runtime.session.gpu.trt.runner import TrtRunner
from runtime.session.kv_budget import KVPlan
from runtime.session.session import FloatArray, Session, decode_logits
from tests.export.random_checkpoint import ARCHITECTURES, CAPACITY, model_shape
from tests.host_device import HostDevice, HostError, HostRecording
from tests.host_tensorrt import HostCudaEngine, HostPlan

SPEC = ARCHITECTURES["llama"]
SHAPE = model_shape(SPEC)
SLOTS = 4
BUCKETS = (1, 2, 4)
TEXT = np.random.default_rng(7).integers(0, SPEC.vocab_size, CAPACITY)


class Parts(NamedTuple):
    """A session, and what is below it."""

    session: StaticSession
    engine: HostCudaEngine
    device: HostDevice
    plan: HostPlan


def opened(graphs: dict[str, Path], *, compiles: bool, kv: str = "float32") -> Parts:
    device, engine = HostDevice(), HostCudaEngine(graphs["trt"], num_slots=SLOTS, kv=kv)
    plan = HostPlan(engine, device, compiles_per_shape=compiles)
    session = StaticSession("tensorrt", TrtRunner(plan, device, SHAPE), device, SHAPE, SLOTS)
    return Parts(session, engine, device, plan)


@pytest.fixture(params=[False, True], ids=["records", "compiles"])
def parts(graphs: dict[str, Path], request: pytest.FixtureRequest) -> Parts:
    return opened(graphs, compiles=request.param)


@pytest.fixture
def reference(graphs: dict[str, Path]) -> OrtSession:
    kv = KVPlan(num_slots=SLOTS, slot_tokens=CAPACITY, bytes_per_token=0, budget_bytes=0)
    return OrtSession(graphs["ort"], SHAPE, kv, OrtOptions(intra_op_threads=1), "float32")


def chunks_to_the_end(session: Session) -> list[FloatArray]:
    """A slot filled to its last row in odd chunks that want 0 to 9 logits, and a step on its last row."""
    rows, start = [], 0
    for count, num_logits in ((17, 0), (3, 3), (1, 1), (9, 9), (19, 2), (10, 1), (4, 4)):
        rows.append(session.prefill(1, TEXT[start : start + count], start, num_logits).copy())
        start += count
    assert start == CAPACITY - 1
    return [*rows, decode_logits(session, 1, TEXT[start:], np.array([start])).copy()]


def every_request(session: Session) -> None:
    """Every number of rows from every slot twice, and chunks of every kind."""
    chunks_to_the_end(session)
    for first in range(SLOTS):
        for count in range(1, SLOTS - first + 1):
            for position in (20, 21):
                decode_logits(session, first, np.full(count, 3), np.full(count, position))


def test_a_slot_is_filled_to_its_last_row_and_no_further(parts: Parts, reference: OrtSession) -> None:
    """Padding that ran past the slot would write the next one's first rows."""
    for session in (parts.session, reference):
        for slot in (0, 2):
            session.prefill(slot, TEXT[:20][::-1].copy(), 0, 0)
    for ours, theirs in zip(chunks_to_the_end(parts.session), chunks_to_the_end(reference), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    for slot in (0, 2):
        ours, theirs = (decode_logits(one, slot, TEXT[:1], np.array([20])) for one in (parts.session, reference))
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    for call in (
        partial(parts.session.prefill, 1, TEXT[:2], CAPACITY - 1, 1),
        partial(decode_logits, parts.session, 0, TEXT[:2], np.array([3, CAPACITY])),
    ):
        with pytest.raises(DeviceError, match="a slot holds 64 tokens, row 65 was to be written"):
            call()


def test_nothing_is_allocated_or_made_after_the_start(parts: Parts) -> None:
    before = (set(parts.device.blocks), len(parts.device.pinned_blocks), len(parts.engine.made))
    parts.session.warm_up()
    every_request(parts.session)
    assert before == (set(parts.device.blocks), len(parts.device.pinned_blocks), len(parts.engine.made))
    assert len(parts.engine.made) == (2 if parts.plan.compiles_per_shape else 1 + len(BUCKETS))


def test_all_contexts_share_one_block_of_scratch_memory(parts: Parts) -> None:
    (scratch,) = {context.scratch for context in parts.engine.contexts}
    assert scratch is not None
    assert scratch[1] - scratch[0] == parts.engine.device_memory_size_v2 == len(parts.device.blocks[scratch[0]])


def test_no_request_meets_the_compiler(graphs: dict[str, Path]) -> None:
    session, engine, _, _ = opened(graphs, compiles=True)
    session.warm_up()
    compiled = [*engine.compiled]
    tokens = {shapes["input_ids"][1] for profile, shapes in compiled if profile == 1}
    rows = {shapes["input_ids"][0] for profile, shapes in compiled if profile == 0}
    assert (tokens, rows, len(compiled)) == ({1, 8, 16}, set(BUCKETS), 3 * 2 + len(BUCKETS))
    every_request(session)
    assert engine.compiled == compiled


def test_the_warm_up_records_what_requests_replay(graphs: dict[str, Path]) -> None:
    session, _, device, _ = opened(graphs, compiles=False)
    session.warm_up()
    assert (len(device.recordings), device.launches) == (len(BUCKETS), len(BUCKETS))
    session.prefill(0, TEXT[:9], 0, 0)
    decode_logits(session, 0, TEXT[:2], np.array([9, 0]))
    decode_logits(session, 2, TEXT[:1], np.array([3]))
    assert (len(device.recordings), device.launches) == (len(BUCKETS), len(BUCKETS) + 2)


def test_shapes_are_inferred_when_they_changed_and_only_then(parts: Parts) -> None:
    session, engine, device, _ = parts
    session.prefill(0, TEXT[:16], 0, 1)
    device.refuses_recordings = True
    for position in range(16, 21):
        decode_logits(session, 0, TEXT[:1], np.array([position]))
    assert engine.num_inferences == 2
    session.prefill(1, TEXT[:16], 0, 1)
    assert engine.num_inferences == 2
    session.prefill(1, TEXT[:3], 16, 1)
    assert engine.num_inferences == 3


def test_a_step_that_cannot_be_recorded_runs_as_it_is(
    graphs: dict[str, Path],
    reference: OrtSession,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session, _, device, _ = opened(graphs, compiles=False)
    tried: list[int] = []
    record = device.record

    def counted(work: Callable[[], None]) -> HostRecording:
        tried.append(1)
        return record(work)

    monkeypatch.setattr(device, "record", counted)
    device.refuses_recordings = True
    with caplog.at_level(logging.INFO, "powertrain.backend"):
        for count in (2, 4):
            for position in range(4):
                ids, positions = np.full(count, position), np.full(count, position)
                ours, theirs = (decode_logits(one, 0, ids, positions).copy() for one in (session, reference))
                np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert (len(tried), device.launches) == (2, 0)  # each shape once
    assert [(line.levelno, line.getMessage()) for line in caplog.records] == [
        (
            level,
            (
                f"backend tensorrt: a step of {count} rows runs unrecorded from now on, which is slower "
                "(CUDA failed recording a step: cudaErrorStreamCaptureUnsupported)"
            ),
        )
        for level, count in ((logging.WARNING, 2), (logging.INFO, 4))
    ]
    device.refuses_recordings = False
    decode_logits(session, 0, np.full(2, 1), np.full(2, 4))
    assert len(tried) == 2
    session.close()


def test_the_plans_refusal_while_recording_is_one_of_recording(graphs: dict[str, Path]) -> None:
    session, engine, device, _ = opened(graphs, compiles=False)
    decode_logits(session, 0, TEXT[:1], np.array([0]))
    execute = bound_run.TrtRun.enqueue

    def refuse_in_capture(run: bound_run.TrtRun) -> None:
        engine.refused = {"execute_async_v3"} if device.recording is not None else set()
        execute(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bound_run.TrtRun, "enqueue", refuse_in_capture)
        for position in (1, 2, 3):
            decode_logits(session, 0, TEXT[:1], np.array([position]))
    assert device.launches == 0


def test_a_first_run_that_failed_is_no_ground_for_a_recording(graphs: dict[str, Path]) -> None:
    session, engine, device, _ = opened(graphs, compiles=False)
    engine.refused = {"execute_async_v3"}
    with pytest.raises(DeviceError, match="refused to run"):
        decode_logits(session, 0, TEXT[:1], np.array([0]))
    engine.refused = set()
    for position in range(3):
        decode_logits(session, 0, TEXT[:1], np.array([position]))
    assert device.launches == 2


def test_sixty_four_slots_take_seven_recordings(graphs: dict[str, Path]) -> None:
    """Whoever decodes, wherever: powers of two, and nothing beyond."""
    device, engine = HostDevice(), HostCudaEngine(graphs["trt"], num_slots=64)
    session = StaticSession("tensorrt", TrtRunner(HostPlan(engine, device), device, SHAPE), device, SHAPE, 64)
    assert session.info.decode_buckets == (1, 2, 4, 8, 16, 32, 64)
    for slots in ([0], [5], [3, 60], [1, 2, 9], [30], [17], [0, 1], [63], [33, 40]):
        for position in (0, 1):
            session.decode_tokens(np.array(slots), np.full(len(slots), 3), np.full(len(slots), position))
    assert (len(device.recordings), len(engine.made)) == (6, 1 + 7)  # none of these wants a call of four slots
    assert {shapes["input_ids"][0] for profile, shapes in engine.compiled if profile == 0} == {1, 2, 8, 16, 32, 64}


def test_rows_that_nobody_asked_for_write_where_nothing_valid_is(parts: Parts, reference: OrtSession) -> None:
    """Every slot holds a text; one at a time decodes, and the other slots of its call keep their rows."""
    lengths = [5, 17, 30, 9]
    for session in (parts.session, reference):
        for slot, length in enumerate(lengths):
            session.prefill(slot, TEXT[slot : slot + length], 0, 0)
    for step in range(3):
        for slot in (3, 1, 2, 0):
            ids, positions = TEXT[step : step + 1], np.array([lengths[slot] + step])
            one = parts.session.decode_tokens(np.array([slot]), ids, positions).logits([0])
            np.testing.assert_allclose(one, decode_logits(reference, slot, ids, positions), atol=1e-4)
    for session in (parts.session, reference):
        session.copy_slot(2, 0, 33)
        session.decode_tokens(np.array([1, 3]), TEXT[:2], np.array([20, 12]))
    ours, theirs = (decode_logits(one, 0, TEXT[:1], np.array([33])) for one in (parts.session, reference))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("kv", ["float16", "bfloat16"])
def test_caches_in_half_precision_lie_where_they_should(
    graphs: dict[str, Path], reference: OrtSession, kv: str
) -> None:
    for compiles in (True, False):
        session, _, _, _ = opened(graphs, compiles=compiles, kv=kv)
        assert session.info.kv_bytes_per_token == 2 * 2 * 2 * 16 * 2
        for one in (session, reference):
            for slot in range(SLOTS):
                one.prefill(slot, TEXT[slot : slot + 21], 0, 0)
            one.copy_slot(0, 3, 21)
        for position in (21, 22, 23):
            ids, positions = TEXT[position : position + SLOTS], np.full(SLOTS, position)
            ours, theirs = (decode_logits(one, 0, ids, positions).copy() for one in (session, reference))
            np.testing.assert_allclose(ours, theirs, atol=0.01 if kv == "float16" else 0.08)
            np.testing.assert_allclose(ours[3] - ours[0], theirs[3] - theirs[0], atol=0.02 if kv == "float16" else 0.1)


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        ("create_execution_context", "no context"),
        ("set_optimization_profile_async", "the plan has no profile 1"),
        ("get_tensor_location", "the plan wants 'input_ids' in host memory"),
    ],
)
def test_what_the_library_refuses_at_the_start_is_an_error(graphs: dict[str, Path], refused: str, message: str) -> None:
    device, engine = HostDevice(), HostCudaEngine(graphs["trt"])
    engine.refused = {refused}
    with pytest.raises(DeviceError, match=message):
        TrtRunner(HostPlan(engine, device), device, SHAPE)


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        ("set_input_shape", r"the plan refused shape \[1, 3\] for 'input_ids'"),
        ("set_tensor_address", "the plan refused an address for 'input_ids'"),
        ("infer_shapes", r"the plan cannot run these shapes \(shape inference failed\)"),
        ("execute_async_v3", "the plan refused to run"),
    ],
)
def test_what_the_library_refuses_in_a_run_is_its_error_alone(
    graphs: dict[str, Path], refused: str, message: str
) -> None:
    session, engine, device, _ = opened(graphs, compiles=False)
    engine.refused = {refused}
    for _ in range(2):  # what was refused was not noted as set
        with pytest.raises(DeviceError, match=message):
            session.prefill(0, TEXT[:3], 0, 1)
        assert device.queue == []  # the next call writes the memory that an upload would still read
    engine.refused = set()
    assert session.prefill(0, TEXT[:3], 0, 1).shape == (1, SPEC.vocab_size)


def test_a_shape_that_was_refused_leaves_none_to_rely_on(parts: Parts) -> None:
    first = parts.session.prefill(0, TEXT[:3], 0, 1).copy()
    parts.engine.refused = {"set_input_shape"}
    with pytest.raises(DeviceError, match="the plan refused shape"):
        parts.session.prefill(0, TEXT[:9], 0, 1)
    parts.engine.refused = set()
    np.testing.assert_array_equal(parts.session.prefill(0, TEXT[:3], 0, 1), first)


def test_kernels_are_kept_before_the_contexts_go_and_the_plan_after(parts: Parts) -> None:
    contexts = len(parts.engine.contexts)
    parts.session.close()
    assert (parts.plan.saves, parts.plan.closed, parts.engine.contexts) == ([contexts], True, [])


def test_a_failure_while_closing_does_not_keep_the_rest_open(graphs: dict[str, Path]) -> None:
    session, _, device, plan = opened(graphs, compiles=False)
    session.warm_up()
    device.queue.append(lambda: None)  # so that recordings are closed too early
    with pytest.raises(HostError) as failed:
        session.close()
    assert len(plan.saves) == 1
    assert str(failed.value) == "the device was closed with work in the stream"


def test_a_session_may_use_less_of_its_slots(graphs: dict[str, Path]) -> None:
    device, engine = HostDevice(), HostCudaEngine(graphs["trt"], num_slots=SLOTS)
    runner = TrtRunner(HostPlan(engine, device), device, SHAPE)
    assert StaticSession("tensorrt", runner, device, SHAPE, 2, max_model_len=50).info.max_model_len == 50


def test_one_graph_serves_every_slot_length(graphs: dict[str, Path], reference: OrtSession) -> None:
    """The length is the plan's, not the graph's."""
    device, engine = HostDevice(), HostCudaEngine(graphs["trt"], num_slots=SLOTS, capacity=32)
    session = StaticSession("tensorrt", TrtRunner(HostPlan(engine, device), device, SHAPE), device, SHAPE, SLOTS)
    assert session.info.max_model_len == 32
    ours, theirs = (one.prefill(1, TEXT[:32], 0, 5).copy() for one in (session, reference))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
