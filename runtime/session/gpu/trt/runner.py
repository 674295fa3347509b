"""Runs a TensorRT plan: contexts, profiles, shapes and addresses. Knows one plan and the cache's addresses.

The plan has two profiles, decode and prefill, and each gets a context of its own, so that going from one to the
other switches nothing. Past and present of a cache are one address, which the plan demands through its aliases.
Only shapes and addresses that changed are set again, and every refusal is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from runtime.errors import DeviceError
from runtime.package import dtypes, graph_io
from runtime.package.manifest import ModelShape
from runtime.session.device import Device
from runtime.session.gpu.device_arena import DeviceArena
from runtime.session.gpu.static_session import Call, Limits
from runtime.session.gpu.trt.api import Context, CudaEngine

DECODE_PROFILE = 0
PREFILL_PROFILE = 1

_MAX_RECORDED = 32
_SHARED = (-1, -1)
"""Key of the context that serves every decode shape that is not recorded."""

_CACHE_TYPES = {kind.tensorrt_name: kind for kind in dtypes.FLOATS}


@dataclass(slots=True)
class _Bound:
    """A context and what was last set on it."""

    context: Context
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    addresses: dict[str, int] = field(default_factory=dict)

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        if self.shapes.get(name) != shape:
            if not self.context.set_input_shape(name, shape):
                raise DeviceError(f"the plan refused shape {list(shape)} for {name!r}; rebuild it with larger profiles")
            self.shapes[name] = shape

    def set_address(self, name: str, address: int) -> None:
        if self.addresses.get(name) != address:
            if not self.context.set_tensor_address(name, address):
                raise DeviceError(f"the plan refused an address for {name!r}; rebuild it with 'powertrain engine'")
            self.addresses[name] = address


class TrtRunner:
    """``runtime.session.gpu.static_session.Runner`` over a plan.

    ``make_context`` creates an execution context. ``records_decode`` lets the device record decode steps as CUDA
    graphs: a recorded step belongs to a context whose shapes and addresses stay as they were, so every recorded
    shape gets a context of its own. TensorRT for RTX captures by itself and is given False.
    """

    def __init__(
        self,
        plan: CudaEngine,
        make_context: Callable[[], Context],
        device: Device,
        shape: ModelShape,
        *,
        records_decode: bool,
    ) -> None:
        self._plan, self._make_context, self._device, self._shape = plan, make_context, device, shape
        self._records_decode = records_decode
        self._limits = limits_of_plan(plan, shape)
        self._decode: dict[tuple[int, int], _Bound] = {}
        self._prefill = self._bound(PREFILL_PROFILE)

    @property
    def limits(self) -> Limits:
        """From the plan's profiles."""
        return self._limits

    def may_record(self, call: Call) -> bool:
        """True for the first ``_MAX_RECORDED`` shapes, if at all: each costs a context."""
        key = (call.first_slot, call.num_rows)
        return self._records_decode and (key in self._decode or len(self._decode) < _MAX_RECORDED)

    def enqueue(self, call: Call, arena: DeviceArena) -> None:
        """See ``Runner.enqueue``."""
        bound = self._decode_bound(call) if call.is_decode else self._prefill
        bound.set_shape(graph_io.INPUT_IDS, (call.num_rows, call.num_tokens))
        bound.set_shape(graph_io.WRITE_INDICES, (call.num_rows,))
        bound.set_shape(graph_io.LOGITS_INDICES, (call.num_logits,))
        for name, address in call.addresses.items():
            bound.set_address(name, address)
        self._set_cache(bound, call, arena)
        if missing := bound.context.infer_shapes():
            raise DeviceError(f"the plan lacks a shape for {', '.join(missing)}; rebuild it with 'powertrain engine'")
        if not bound.context.execute_async_v3(self._device.stream):
            raise DeviceError("the plan refused to run; see the log for TensorRT's reason")

    def close(self) -> None:
        """Drop the contexts."""
        self._decode.clear()
        del self._prefill

    def _set_cache(self, bound: _Bound, call: Call, arena: DeviceArena) -> None:
        shape = (call.num_rows, self._shape.num_kv_heads, self._limits.capacity, self._shape.head_dim)
        for block, (past, present) in enumerate(graph_io.cache_names(self._shape.num_layers)):
            address = arena.address(block, call.first_slot)
            bound.set_shape(past, shape)
            bound.set_address(past, address)
            bound.set_address(present, address)

    def _decode_bound(self, call: Call) -> _Bound:
        key = (call.first_slot, call.num_rows) if self.may_record(call) else _SHARED
        if key not in self._decode:
            self._decode[key] = self._bound(DECODE_PROFILE)
        return self._decode[key]

    def _bound(self, profile: int) -> _Bound:
        context = self._make_context()
        if not context.set_optimization_profile_async(profile, self._device.stream):
            raise DeviceError(f"the plan has no profile {profile}; rebuild it with 'powertrain engine'")
        self._device.synchronize()  # the switch must be over before shapes are set
        return _Bound(context)


def limits_of_plan(plan: CudaEngine, shape: ModelShape) -> Limits:
    """Check a plan's tensors, aliases and profiles against the model and read its limits. Raises DeviceError."""
    names = [plan.get_tensor_name(index) for index in range(plan.num_io_tensors)]
    caches = graph_io.cache_names(shape.num_layers)
    _check_names(names, caches)
    for name in names:
        if plan.get_tensor_location(name).name != "DEVICE":
            raise DeviceError(f"the plan wants {name!r} in host memory; rebuild it with 'powertrain engine'")
    for past, present in caches:
        if plan.get_aliased_input_tensor(present) != past:
            raise DeviceError(f"the plan does not update {past!r} in place; rebuild it with 'powertrain engine'")
    if plan.num_optimization_profiles != 2:
        raise DeviceError(f"the plan has {plan.num_optimization_profiles} profiles, 2 are needed; rebuild it")
    first_past, _ = caches[0]
    kv_dtype = plan.get_tensor_dtype(first_past).name
    if kv_dtype not in _CACHE_TYPES:
        raise DeviceError(f"the plan's cache is {kv_dtype}, which is not one of {', '.join(_CACHE_TYPES)}; rebuild it")
    decode_max = plan.get_tensor_profile_shape(graph_io.INPUT_IDS, DECODE_PROFILE)[2]
    prefill_max = plan.get_tensor_profile_shape(graph_io.INPUT_IDS, PREFILL_PROFILE)[2]
    return Limits(
        num_slots=decode_max[0],
        capacity=plan.get_tensor_profile_shape(first_past, DECODE_PROFILE)[2][2],
        prefill_tokens=prefill_max[1],
        max_logits=plan.get_tensor_profile_shape(graph_io.LOGITS_INDICES, PREFILL_PROFILE)[2][0],
        kv_itemsize=_CACHE_TYPES[kv_dtype].itemsize,
    )


def _check_names(names: list[str], caches: list[tuple[str, str]]) -> None:
    small = {graph_io.INPUT_IDS, graph_io.WRITE_INDICES, graph_io.LOGITS_INDICES, graph_io.LOGITS}
    wanted = small | {name for pair in caches for name in pair}
    if odd := sorted(set(names) ^ wanted):
        raise DeviceError(f"the plan's tensors differ from the package's by {odd[0]!r}; rebuild it for this package")
