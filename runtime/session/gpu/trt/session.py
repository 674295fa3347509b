"""Opens a session on a TensorRT plan that ``runtime.loading.plan_choice`` found fit.

Knows what a session is made of; what TensorRT does is ``loaded_plan``'s and ``runner``'s.
"""

from __future__ import annotations

import importlib
import logging
from contextlib import ExitStack
from typing import Any

from runtime.errors import DeviceOutOfMemory
from runtime.package.manifest import ModelShape
from runtime.package.plan_sidecar import PlanFile
from runtime.session.device import Device
from runtime.session.gpu.missing_head import say_no_head
from runtime.session.gpu.runner import NUM_LANES
from runtime.session.gpu.selection_staging import selection_bytes
from runtime.session.gpu.staging import logits_bytes
from runtime.session.gpu.static_session import StaticSession
from runtime.session.gpu.trt.loaded_plan import LoadedPlan
from runtime.session.gpu.trt.runner import TrtRunner
from runtime.session.gpu.trt.selector import TrtSelector
from runtime.session.kv_budget import KVPlan
from runtime.session.session import Session

_LOG = logging.getLogger("powertrain.tensorrt")


def open_trt_session(plan: PlanFile, shape: ModelShape, device: Device, kv: KVPlan) -> Session:
    """A session that owns ``device`` and closes it, also on failure; every shape has run once.

    Raises PlanError or DeviceError; DeviceOutOfMemory with what the session needs. Its numbers are not proven: see
    ``runtime.loading.self_test``.
    """
    library = plan.sidecar.key.library
    trt: Any = importlib.import_module(library)
    with ExitStack() as on_failure:
        on_failure.callback(device.close)
        loaded = LoadedPlan(trt, plan)
        on_failure.callback(loaded.close)
        head = LoadedPlan(trt, plan, is_head=True) if plan.sidecar.selection_bytes else None
        if head is None:
            say_no_head(library)
        else:
            on_failure.callback(head.close)
        scratch_bytes = sum(one.engine.device_memory_size_v2 for one in (loaded, head) if one is not None)
        needs = _needs(plan, shape, kv, scratch_bytes)
        _LOG.info("GPU memory: %s", needs)
        try:
            num_lanes = 1 if head is None else NUM_LANES
            runner = TrtRunner(loaded, device, shape, num_lanes=num_lanes)
            on_failure.callback(runner.close)
            selector = None if head is None else TrtSelector(head, device, shape.vocab_size, num_lanes=num_lanes)
            if selector is not None:
                on_failure.callback(selector.close)
            session = StaticSession(
                library, runner, device, shape, kv.num_slots, max_model_len=kv.slot_tokens, selector=selector
            )
            on_failure.pop_all()
            on_failure.callback(session.close)
            session.warm_up()
        except DeviceOutOfMemory as error:
            raise DeviceOutOfMemory(
                f"{error}; needed are {needs}: ask for fewer slots with --num-slots, or build the plan again with a "
                "smaller --max-model-len"
            ) from error
        for one in (loaded, head):
            if one is not None:
                one.save_kernels()
        on_failure.pop_all()
    return session


def _needs(plan: PlanFile, shape: ModelShape, kv: KVPlan, scratch_bytes: int) -> str:
    """The arithmetic of a session's memory."""
    num_lanes = NUM_LANES if plan.sidecar.selection_bytes else 1
    parts = {
        "plan": plan.sidecar.plan_bytes,
        "scratch": scratch_bytes,
        "logits": logits_bytes(kv.num_slots, plan.sidecar.key.max_logits, shape.vocab_size, num_lanes),
        **(
            {"selection": selection_bytes(num_lanes * kv.num_slots + 1, shape.vocab_size)}
            if plan.sidecar.selection_bytes
            else {}
        ),
        f"cache ({kv.num_slots} slots of {kv.rows} tokens)": kv.total_bytes,
    }
    terms = " + ".join(f"{size / 2**30:.2f} {name}" for name, size in parts.items())
    return f"{terms} = {sum(parts.values()) / 2**30:.2f} GiB"
