"""Runs a selection head's TensorRT plan, below ``static_session``. Knows no decoder and no rules.

The plan has one profile, of one row to as many as there are slots.
"""

from __future__ import annotations

from runtime.errors import DeviceError
from runtime.package import selection_io
from runtime.package.selection_io import input_shapes, output_shapes
from runtime.session.device import Device
from runtime.session.gpu.runner import decode_buckets
from runtime.session.gpu.trt.api import CudaEngine
from runtime.session.gpu.trt.bound_run import Contexts, OpenPlan, TrtRun

_PROFILE = 0


class TrtSelector:
    """``runtime.session.gpu.runner.Selector`` over a plan, which it closes.

    As with the decoder's, a context belongs to one run where the device records, and serves them all elsewhere.
    ``num_lanes`` is the decoder's.
    """

    def __init__(self, plan: OpenPlan, device: Device, vocab_size: int, *, num_lanes: int = 1) -> None:
        self._plan, self._device, self._vocab_size = plan, device, vocab_size
        most = _max_rows(plan.engine, vocab_size)
        self._contexts = Contexts(plan, device)
        count = 1 if plan.compiles_per_shape else num_lanes * len(decode_buckets(most)) + 1
        self._idle = self._contexts.made(_PROFILE, count)

    def prepare(self, num_rows: int, addresses: dict[str, int]) -> TrtRun:
        """See ``Selector.prepare``."""
        own = not self._plan.compiles_per_shape
        bound, idle = (self._idle.pop(), self._idle) if own else (self._idle[0], None)
        shapes = input_shapes(num_rows, self._vocab_size)
        wanted = {name: addresses[name] for name in (*shapes, *output_shapes(num_rows))}
        return TrtRun(bound, shapes, wanted, self._device.stream, idle)

    def close(self) -> None:
        """Keep the compiled kernels, drop the contexts, and then the plan."""
        self._plan.save_kernels()
        self._contexts.drop()
        self._plan.close()


def _max_rows(plan: CudaEngine, vocab_size: int) -> int:
    """Check the plan's tensors; the most rows that it takes. Raises DeviceError."""
    names = {plan.get_tensor_name(index) for index in range(plan.num_io_tensors)}
    if odd := sorted(names ^ {*input_shapes(1, vocab_size), *output_shapes(1)}):
        raise DeviceError(f"the selection plan has an odd tensor, {odd[0]!r}; rebuild it for this package")
    if host := [name for name in sorted(names) if plan.get_tensor_location(name).name != "DEVICE"]:
        raise DeviceError(f"the selection plan wants {host[0]!r} in host memory; rebuild it with 'powertrain engine'")
    rows, width = plan.get_tensor_profile_shape(selection_io.LOGITS, _PROFILE)[2]
    if width != vocab_size:
        raise DeviceError(f"the selection plan is for {width} tokens, the model has {vocab_size}; rebuild it")
    return rows
