"""Opens a session on a graph that one of ONNX Runtime's GPU providers runs.

Knows what a session is made of; options are ``providers``', runs are ``runner``'s.
"""

from __future__ import annotations

from pathlib import Path

from runtime.package.manifest import ModelShape
from runtime.session.device import Device
from runtime.session.gpu.ort.runner import OrtRunner, Provider
from runtime.session.gpu.static_session import StaticSession
from runtime.session.session import Session


def open_ort_session(
    graph: Path,
    provider: Provider,
    device: Device,
    shape: ModelShape,
    *,
    num_slots: int,
    prefill_tokens: int,
    capacity: int,
) -> Session:
    """A session that owns ``device`` and closes it, also on failure. Raises DeviceError.

    Its numbers are not proven: see ``runtime.loading.self_test``.
    """
    try:
        runner = OrtRunner(
            graph,
            provider,
            device,
            shape,
            max_slots=num_slots,
            prefill_tokens=prefill_tokens,
            capacity=capacity,
        )
        return StaticSession(provider.backend, runner, device, shape, num_slots)
    except BaseException:
        device.close()
        raise
