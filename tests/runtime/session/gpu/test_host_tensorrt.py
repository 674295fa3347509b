"""The doubles of TensorRT and of a device are strict: each misuse that they promise to catch, committed on purpose."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from runtime.session.gpu.runner import Call
from runtime.session.gpu.static_session import StaticSession
from tests.export.random_checkpoint import CAPACITY, write_trt
from tests.host_device import HostDevice, HostError
from tests.host_tensorrt import HostCudaEngine, HostPlan
from tests.runtime.session.gpu.test_static_session import SPEC, trt_session

Parts = tuple[StaticSession, HostCudaEngine, HostDevice]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_trt(SPEC, tmp_path_factory.mktemp("graph"))


@pytest.fixture
def parts(graph: Path) -> Parts:
    session, plan, device = trt_session(graph, records=False)
    session.prefill(0, np.array([1, 2, 3]), 0, 1)
    return session, plan, device


def test_unset_address(parts: Parts) -> None:
    context = parts[1].contexts[0]
    del context.addresses["logits"]
    with pytest.raises(HostError, match="without an address for logits"):
        context.execute_async_v3(7)


def test_overlap(parts: Parts) -> None:
    context = parts[1].contexts[0]
    context.addresses["past_key_values.1.key"] = context.addresses["past_key_values.0.key"]
    context.addresses["present.1.key"] = context.addresses["past_key_values.0.key"]
    with pytest.raises(HostError, match="overlap"):
        context.execute_async_v3(7)


def test_missing_alias(parts: Parts) -> None:
    context = parts[1].contexts[0]
    context.addresses["present.0.key"] = context.addresses["past_key_values.1.key"]
    with pytest.raises(HostError, match="must be the same memory"):
        context.execute_async_v3(7)


def test_stale_input(parts: Parts) -> None:
    _, plan, device = parts
    plan.contexts[0].execute_async_v3(7)
    with pytest.raises(HostError, match="read again without an upload"):
        device.synchronize()


def test_voided_shape(parts: Parts) -> None:
    context = parts[1].contexts[0]
    context.set_optimization_profile_async(0, 7)
    with pytest.raises(HostError, match="without a shape"):
        context.execute_async_v3(7)


def test_freed_memory(parts: Parts) -> None:
    session, plan, device = parts
    session.close()
    for use in (
        lambda: device.view(0, 1),
        lambda: device.allocate(1),
        lambda: device.pinned(1),
        device.synchronize,
        lambda: plan.create_execution_context(device),
        device.close,
    ):
        with pytest.raises(HostError, match="after the device was closed"):
            use()


def test_contexts_that_outlive_the_memory(parts: Parts) -> None:
    session, plan, _ = parts
    context = plan.contexts[0]
    with pytest.raises(HostError, match="closed before the contexts"):
        session.close()
    del context


def test_pageable_memory(parts: Parts) -> None:
    _, _, device = parts
    address, pageable = device.allocate(8), np.zeros(8, np.uint8)
    with pytest.raises(HostError, match="not pinned"):
        device.upload(address, pageable)
    with pytest.raises(HostError, match="not pinned"):
        device.download(pageable, address)


def test_an_upload_that_changes_too_early(parts: Parts) -> None:
    _, _, device = parts
    address, source = device.allocate(8), device.pinned(8)
    device.upload(address, source)
    source[0] = 1
    with pytest.raises(HostError, match="changed before the stream was waited for"):
        device.synchronize()


def test_rows_that_overlap_or_do_not_fit(parts: Parts) -> None:
    _, _, device = parts
    address = device.allocate(1024)
    with pytest.raises(HostError, match="rows of 32 bytes do not fit a pitch of 16"):
        device.copy_rows(address, address + 512, 32, 16, 2)
    with pytest.raises(HostError, match="over themselves"):
        device.copy_rows(address, address + 16, 8, 16, 2)


def test_what_a_recording_cannot_hold(parts: Parts) -> None:
    _, plan, device = parts
    context = plan.contexts[0]

    def run() -> None:
        context.execute_async_v3(7)

    def allocate() -> None:
        device.allocate(8)

    for use in (device.synchronize, allocate):
        with pytest.raises(HostError, match="while a step was recorded"):
            device.record(use)
    changes: tuple[Callable[[], object], ...] = (
        lambda: context.set_input_shape("input_ids", (1, 3)),
        lambda: context.set_optimization_profile_async(1, 7),
        lambda: context.set_device_memory(0, 1000),
        context.infer_shapes,
        lambda: plan.create_execution_context(device),
    )
    for change in changes:
        with pytest.raises(HostError, match="while a step was recorded"):
            device.record(lambda it=change: (it(), None)[1])  # type: ignore[misc]
    context.set_input_shape("input_ids", (1, 5))
    with pytest.raises(HostError, match="not inferred since one of them changed"):
        run()
    context.infer_shapes()
    with pytest.raises(HostError, match="before a first run with these shapes"):
        device.record(run)
    context.set_input_shape("input_ids", (1, 8))
    context.infer_shapes()
    recording = device.record(run)
    with pytest.raises(HostError, match="changed after it was recorded"):
        context.set_input_shape("input_ids", (1, 5))
    recording.close()
    context.set_input_shape("input_ids", (1, 5))
    with pytest.raises(HostError, match="launched after it was closed"):
        recording.launch()


def test_a_switch_of_profiles_that_nobody_waited_for(parts: Parts) -> None:
    context = parts[1].contexts[0]
    context.set_optimization_profile_async(1, 7)
    with pytest.raises(HostError, match="before the switch of profiles was waited for"):
        context.set_input_shape("input_ids", (1, 3))


def test_scratch_memory(parts: Parts) -> None:
    _, plan, device = parts
    context = plan.contexts[0]
    for address, size, message in (
        (device.allocate(5000) + 8, 1000, "not aligned"),
        (device.allocate(5000), 999, "scratch memory of 999 bytes, 1000 are needed"),
        (device.allocate(100), 1000, "no block holds 1000 bytes"),
    ):
        with pytest.raises(HostError, match=message):
            context.set_device_memory(address, size)
    context.set_device_memory(context.addresses["past_key_values.0.key"], 1000)
    with pytest.raises(HostError, match="overlap"):
        context.execute_async_v3(7)
    context.scratch = None
    with pytest.raises(HostError, match="without scratch memory"):
        context.execute_async_v3(7)


def test_what_a_kernel_would_read_or_write_out_of_bounds(
    parts: Parts,
) -> None:
    session, _, device = parts
    runner, staging = session._runner, session._prompts._staging
    call = Call(
        is_decode=False,
        first_slot=0,
        num_rows=1,
        num_tokens=8,
        num_logits=1,
        total_tokens=8,
        addresses=staging.addresses,
    )
    for name, index, value, message in (
        ("write_indices", 0, CAPACITY - 7, r"8 rows from \[57\] on do not fit slots of 64"),
        ("input_ids", 3, SPEC.vocab_size, "a token that is none of 97"),
        ("logits_indices", 0, 8, "a token that is none of 8"),
    ):
        staging.inputs[name][index] = value
        staging.upload()
        runner.prepare(call, session._arena).enqueue()
        with pytest.raises(HostError, match=message):
            device.synchronize()
        staging.inputs[name][index] = 0


def test_shapes_that_disagree(parts: Parts) -> None:
    context = next(one for one in parts[1].contexts if one.profile == 0)
    for name, (_, _, high) in parts[1].profiles[0].items():
        context.set_input_shape(name, high)
    context.set_input_shape("write_indices", (2,))
    context.infer_shapes()
    with pytest.raises(HostError, match="disagree about the rows"):
        context.execute_async_v3(7)


def test_another_thread(parts: Parts) -> None:
    session, plan, device = parts
    uses: tuple[Callable[[], object], ...] = (
        lambda: session.prefill(0, np.array([1, 2, 3]), 0, 1),
        device.synchronize,
        plan.contexts[0].infer_shapes,
        lambda: plan.contexts[0].execute_async_v3(7),
    )
    with ThreadPoolExecutor(1) as pool:
        for use in uses:
            with pytest.raises(HostError, match="on another thread"):
                pool.submit(use).result()


def test_a_plan_that_goes_before_its_contexts(parts: Parts) -> None:
    session, plan, device = parts
    with pytest.raises(HostError, match="closed before its contexts"):
        HostPlan(plan, device).close()
    session.close()
    with pytest.raises(HostError, match="closed after the device"):
        HostPlan(plan, device).close()


def test_foreign_stream(parts: Parts) -> None:
    with pytest.raises(HostError, match="stream 0"):
        parts[1].contexts[0].execute_async_v3(0)


def test_logits_read_before_the_stream_is_done(parts: Parts) -> None:
    _, _, device = parts
    source, target = device.allocate(8), device.pinned(8)
    device.download(target, source)
    assert target.tolist() == [0xFF] * 8
    device.synchronize()
    assert target.tolist() == [0] * 8
