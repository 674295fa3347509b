"""TrtRunner and StaticSession over HostTensorRT: the same tokens as the ``ort`` graph, and every misuse caught."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from runtime.engine.config import EngineConfig
from runtime.engine.engine import Engine
from runtime.errors import DeviceError
from runtime.events import FinishEvent, FinishReason, TokenEvent
from runtime.session.cpu.ort_session import OrtOptions, OrtSession
from runtime.session.gpu.device_arena import DeviceArena
from runtime.session.gpu.ort.providers import cuda_provider, graph_id_entry
from runtime.session.gpu.ort.runner import OrtRunner, Provider
from runtime.session.gpu.runner import Call
from runtime.session.gpu.static_session import StaticSession
from runtime.session.gpu.trt.runner import TrtRunner
from runtime.session.kv_budget import KVPlan
from runtime.session.session import Session, decode_logits
from tests.export.random_checkpoint import ARCHITECTURES, CAPACITY, model_shape
from tests.host_cuda_session import HostCudaSession
from tests.host_device import HostDevice, HostError
from tests.host_tensorrt import HostCudaEngine, HostPlan
from tests.runtime.engine_driver import request

SPEC = ARCHITECTURES["llama"]


SHAPE = model_shape(SPEC)


SLOTS = 4


PROMPTS = [np.random.default_rng(seed).integers(0, SPEC.vocab_size, 5 + 9 * seed).tolist() for seed in range(5)]


def ort_session(graph: Path) -> OrtSession:
    kv = KVPlan(num_slots=SLOTS, slot_tokens=CAPACITY, bytes_per_token=512, budget_bytes=0)
    return OrtSession(graph, SHAPE, kv, OrtOptions(intra_op_threads=1), "float32")


def trt_session(
    graph: Path, *, records: bool = True, prefill_tokens: int = 16
) -> tuple[StaticSession, HostCudaEngine, HostDevice]:
    device, plan = HostDevice(), HostCudaEngine(graph, num_slots=SLOTS, prefill_tokens=prefill_tokens)
    runner = TrtRunner(HostPlan(plan, device, compiles_per_shape=not records), device, SHAPE)
    return StaticSession("tensorrt", runner, device, SHAPE, SLOTS), plan, device


def ort_static_session(graph: Path) -> StaticSession:
    """The ``trt`` graph in ONNX Runtime, as its GPU providers run it, on the one provider that is here."""
    device = HostDevice()
    provider = Provider(
        "ort-cpu", "cpu", lambda path, options: ort.InferenceSession(str(path), options), graph_id_entry
    )
    runner = OrtRunner(graph, provider, device, SHAPE, max_slots=SLOTS, prefill_tokens=16, capacity=CAPACITY)
    return StaticSession("ort-cpu", runner, device, SHAPE, SLOTS)


def cuda_session(graph: Path) -> tuple[StaticSession, HostCudaSession]:
    """The ``ort`` graph with captured decode steps, as the CUDA provider runs it."""
    device, made = HostDevice(), list[HostCudaSession]()

    def make(path: Path, options: ort.SessionOptions) -> Any:
        made.append(HostCudaSession(path, options, device))
        return made[0]

    provider = replace(cuda_provider(), make=make)
    runner = OrtRunner(graph, provider, device, SHAPE, max_slots=SLOTS, prefill_tokens=16, capacity=CAPACITY)
    return StaticSession("cuda", runner, device, SHAPE, SLOTS), made[0]


@pytest.fixture(params=["recorded", "queued", "onnxruntime", "captured"])
def session(graphs: dict[str, Path], request: pytest.FixtureRequest) -> Iterator[Session]:
    made: StaticSession
    if request.param == "onnxruntime":
        made = ort_static_session(graphs["trt"])
    elif request.param == "captured":
        made, _ = cuda_session(graphs["ort"])
    else:
        made, _, _ = trt_session(graphs["trt"], records=request.param == "recorded")
    yield made
    device: Any = made._device
    assert not device.closed
    made.close()
    assert device.closed
    with pytest.raises(HostError, match="after the device was closed"):
        made.copy_slot(0, 1, 1)


def serve(session: Session, *, abort: str | None = None, config: EngineConfig | None = None) -> dict[str, list[int]]:
    """Five prompts on four slots, one of them twice so that its cache rows are reused; greedy tokens by request."""
    engine = Engine(session, config or EngineConfig(prefill_chunk_tokens=16, idle_prefill_chunk_tokens=24))
    tokens: dict[str, list[int]] = {}
    reasons: dict[str, FinishReason] = {}
    for index, prompt in enumerate(PROMPTS):
        engine.add(request(f"r{index}", prompt, max_tokens=6 + index))
    engine.add(request("again", PROMPTS[1], max_tokens=8))
    steps = 0
    while engine.has_work:
        events = list(engine.step().events)
        steps += 1
        if steps == 4 and abort is not None:
            events += engine.abort(abort)
        for event in events:
            if isinstance(event, TokenEvent):
                tokens.setdefault(event.request_id, []).append(event.token_id)
            elif isinstance(event, FinishEvent):
                reasons[event.request_id] = event.reason
    for name, reason in reasons.items():
        assert reason is (FinishReason.ABORT if name == abort else FinishReason.LENGTH), name
    return tokens


def test_a_batch_gets_the_tokens_that_the_ort_graph_gives(graphs: dict[str, Path], session: Session) -> None:
    expected = serve(ort_session(graphs["ort"]))
    assert {name: len(tokens) for name, tokens in expected.items()} == {
        "r0": 6, "r1": 7, "r2": 8, "r3": 9, "r4": 10, "again": 8,
    }  # fmt: skip
    assert len({tuple(tokens) for tokens in expected.values()}) >= 5
    assert serve(session) == expected


@pytest.mark.parametrize("victim", ["r0", "r2"])
def test_an_abort_moves_slots_and_changes_nobody_else(graphs: dict[str, Path], session: Session, victim: str) -> None:
    expected = serve(ort_session(graphs["ort"]))
    served = serve(session, abort=victim)
    for name, tokens in served.items():
        assert tokens == expected[name][: len(tokens)]
        assert name == victim or len(tokens) == len(expected[name])


def test_logits_equal_the_ort_graphs(graphs: dict[str, Path], session: Session) -> None:
    reference = ort_session(graphs["ort"])
    prompt = np.array(PROMPTS[4], np.int64)  # 41 tokens: three pieces of the prefill profile
    ours, theirs = (one.prefill(2, prompt, 0, 3).copy() for one in (session, reference))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    for slot, length in ((0, 7), (1, 20)):
        for one in (session, reference):
            one.prefill(slot, prompt[:length], 0, 0)
    for _ in range(3):
        positions, ids = np.array([7, 20, 41]), np.array([3, 5, 8])
        ours, theirs = (decode_logits(one, 0, ids, positions).copy() for one in (session, reference))
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def fill(session: Session) -> list[int]:
    """A prompt of its own in each slot; their lengths."""
    for slot, prompt in enumerate(PROMPTS[:SLOTS]):
        session.prefill(slot, np.array(prompt, np.int64), 0, 0)
    return [len(prompt) for prompt in PROMPTS[:SLOTS]]


@pytest.mark.parametrize("first_slot", range(SLOTS))
def test_every_range_of_slots_gets_its_own_rows_when_it_is_replayed(
    graphs: dict[str, Path], session: Session, first_slot: int
) -> None:
    """Ranges of the same size take turns, so that a recorded step meets another range's before it is replayed."""
    reference = ort_session(graphs["ort"])
    lengths = fill(session)
    assert fill(reference) == lengths
    for step in range(3):
        for first in (first_slot, 0):
            count = SLOTS - first_slot
            ids = np.arange(count) + 11 * step + first
            positions = np.array(lengths[first : first + count]) + step
            ours, theirs = (decode_logits(one, first, ids, positions).copy() for one in (session, reference))
            np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("pair", [(0, 1), (1, 3), (2, 0)])
def test_a_copy_in_pieces_touches_no_other_slot(
    graphs: dict[str, Path], session: Session, pair: tuple[int, int]
) -> None:
    reference = ort_session(graphs["ort"])
    lengths = fill(session)
    fill(reference)
    source, other = pair
    for one in (session, reference):
        one.copy_slot(source, other, 3)
        one.copy_slot(source, other, lengths[source], 3)
    lengths[other] = lengths[source]
    for target in (None, 3, 0):
        if target is not None:
            for one in (session, reference):
                one.copy_slot(2, target, lengths[2])
            lengths[target] = lengths[2]
        ids, positions = np.array([9, 8, 7, 6]), np.array(lengths)
        ours, theirs = (decode_logits(one, 0, ids, positions).copy() for one in (session, reference))
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_only_the_wanted_rows_of_logits_come_back(session: StaticSession) -> None:
    device: Any = session._device
    row_bytes = 4 * SPEC.vocab_size
    session.prefill(0, np.array(PROMPTS[1], np.int64), 0, 3)
    session.prefill(1, np.array([5, 6, 7]), 0, 0)
    decode_logits(session, 0, np.array([1, 2]), np.array([14, 3]))
    decode_logits(session, 1, np.array([1]), np.array([4]))
    # None for none; without a head a decode step brings those of all rows that it covers: two slots, from the first on.
    assert device.downloaded_bytes == [count * row_bytes for count in (3, 2, 2)]


def test_copied_slots_hold_their_rows(graphs: dict[str, Path], session: Session) -> None:
    prompt = np.array(PROMPTS[2], np.int64)
    session.prefill(0, prompt, 0, 1)
    expected = decode_logits(session, 0, np.array([9]), np.array([len(prompt)])).copy()
    for slot in (1, 3):
        session.prefill(slot, prompt[::-1].copy(), 0, 1)
    session.copy_slot(0, 1, len(prompt))
    np.testing.assert_array_equal(decode_logits(session, 1, np.array([9]), np.array([len(prompt)])), expected)
    assert not np.array_equal(decode_logits(session, 3, np.array([9]), np.array([len(prompt)])), expected)


def test_a_decode_shape_is_recorded_once_and_replayed(graphs: dict[str, Path]) -> None:
    session, _, device = trt_session(graphs["trt"])
    session.prefill(0, np.array([1, 2, 3]), 0, 0)
    for position in range(3, 8):
        decode_logits(session, 0, np.array([4]), np.array([position]))
    assert device.launches == 4  # five calls, the first one queued
    assert len(device.recordings) == 1


def test_limits_come_from_the_plan(graphs: dict[str, Path]) -> None:
    session, _, _ = trt_session(graphs["trt"])
    assert session.info.max_model_len == CAPACITY
    assert session.info.kv_bytes_per_token == 2 * 2 * 2 * 16 * 4  # kinds, layers, heads, head_dim, bytes
    assert not session.info.batch_invariant


def test_more_logits_than_the_plan_gives_at_once_are_run_in_pieces(graphs: dict[str, Path], session: Session) -> None:
    """41 rows, where a call of the plan gives 8 and of ONNX Runtime's providers 16."""
    prompt = np.array(PROMPTS[4], np.int64)
    expected = ort_session(graphs["ort"]).prefill(0, prompt, 0, len(prompt)).copy()
    np.testing.assert_allclose(session.prefill(0, prompt, 0, len(prompt)), expected, atol=1e-4)


def test_more_slots_than_the_plan_has_are_refused(graphs: dict[str, Path]) -> None:
    device, plan = HostDevice(), HostCudaEngine(graphs["trt"], num_slots=2)
    runner = TrtRunner(HostPlan(plan, device), device, SHAPE)
    with pytest.raises(DeviceError, match="4 slots were asked for, the plan was built for 2"):
        StaticSession("tensorrt", runner, device, SHAPE, 4)


def test_a_shape_outside_the_profile_is_an_error(graphs: dict[str, Path]) -> None:
    device, plan = HostDevice(), HostCudaEngine(graphs["trt"])
    runner = TrtRunner(HostPlan(plan, device), device, SHAPE)
    arena = DeviceArena(device, SHAPE, SLOTS, CAPACITY, 4)
    call = Call(is_decode=True, first_slot=0, num_rows=2, num_tokens=3, num_logits=2, total_tokens=3, addresses={})
    with pytest.raises(DeviceError, match=r"refused shape \[2, 3\] for 'input_ids'"):
        runner.prepare(call, arena).enqueue()


def test_a_plan_without_aliases_is_refused(graphs: dict[str, Path]) -> None:
    device, plan = HostDevice(), HostCudaEngine(graphs["trt"], aliases=False)
    with pytest.raises(DeviceError, match=r"does not update 'past_key_values\.0\.key' in place"):
        TrtRunner(HostPlan(plan, device), device, SHAPE)


def test_a_plan_of_another_model_is_refused(graphs: dict[str, Path]) -> None:
    device, plan = HostDevice(), HostCudaEngine(graphs["trt"])
    other = model_shape(replace(SPEC, num_layers=3))
    with pytest.raises(DeviceError, match=r"differ from the package's by 'past_key_values\.2\.key'"):
        TrtRunner(HostPlan(plan, device), device, other)
