"""Opens a session on a TensorRT plan that ``runtime.loading.plan_choice`` found fit.

Knows what a session is made of; what TensorRT does is ``loaded_plan``'s and ``runner``'s.
"""

from __future__ import annotations

import importlib
from typing import Any

from runtime.package.manifest import ModelShape
from runtime.package.plan_sidecar import PlanFile
from runtime.session.device import Device
from runtime.session.gpu.static_session import StaticSession
from runtime.session.gpu.trt.loaded_plan import LoadedPlan
from runtime.session.gpu.trt.runner import TrtRunner
from runtime.session.session import Session


def open_trt_session(plan: PlanFile, shape: ModelShape, device: Device, num_slots: int) -> Session:
    """A session that owns ``device`` and closes it, also on failure. Raises PlanError or DeviceError.

    Its numbers are not proven: see ``runtime.loading.self_test``.
    """
    library = plan.sidecar.key.library
    trt: Any = importlib.import_module(library)
    try:
        loaded = LoadedPlan(trt, plan)
        runner = TrtRunner(
            loaded.plan,
            loaded.make_context,
            device,
            shape,
            records_decode=not loaded.captures_by_itself,
            on_close=loaded.save_kernels,
        )
        return StaticSession(library, runner, device, shape, num_slots)
    except BaseException:
        device.close()
        raise
