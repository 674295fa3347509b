"""Opens a session on a graph that one of ONNX Runtime's GPU providers runs.

Knows what a session is made of; options are ``providers``', runs are ``runner``'s.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from runtime.package.manifest import ModelShape
from runtime.session.device import Device
from runtime.session.gpu.missing_head import say_no_head, say_no_provider
from runtime.session.gpu.ort.runner import OrtRunner, Provider
from runtime.session.gpu.ort.selector import OrtSelector
from runtime.session.gpu.static_session import StaticSession
from runtime.session.kv_budget import KVPlan
from runtime.session.session import Session


def open_ort_session(
    graph: Path,
    provider: Provider,
    device: Device,
    shape: ModelShape,
    *,
    kv: KVPlan,
    prefill_tokens: int,
    head: Path | None = None,
    head_provider: Provider | None = None,
) -> Session:
    """A session that owns ``device`` and closes it, also on failure; every shape has run once. Raises DeviceError.

    ``head`` is the package's selection head and ``head_provider`` what runs it; without either the host draws.

    Its numbers are not proven: see ``runtime.loading.self_test``.
    """
    with ExitStack() as on_failure:
        on_failure.callback(device.close)
        runner = OrtRunner(
            graph,
            provider,
            device,
            shape,
            max_slots=kv.num_slots,
            prefill_tokens=prefill_tokens,
            capacity=kv.rows,
        )
        on_failure.callback(runner.close)
        selector = None
        if head is None:
            say_no_head(provider.backend)
        elif head_provider is None:
            say_no_provider(provider.backend)
        else:
            selector = OrtSelector(head, head_provider, device, shape.vocab_size)
            on_failure.callback(selector.close)
        session = StaticSession(
            provider.backend,
            runner,
            device,
            shape,
            kv.num_slots,
            max_model_len=kv.slot_tokens,
            selector=selector,
        )
        on_failure.pop_all()
        on_failure.callback(session.close)
        session.warm_up()
        on_failure.pop_all()
    return session
