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
from runtime.session.gpu.runner import Call, Limits
from runtime.session.gpu.trt.api import Context, CudaEngine

DECODE_PROFILE = 0
PREFILL_PROFILE = 1

_MAX_RECORDED = 32
"""Decode shapes that are recorded: each costs a context."""

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


@dataclass(frozen=True, slots=True)
class _TrtRun:
    """A call and the context that runs it. Nothing else may use the context if the run is recorded."""

    bound: _Bound
    call: Call
    cache_shape: tuple[int, ...]
    cache_addresses: tuple[tuple[str, str, int], ...]
    stream: int
    may_be_recorded: bool

    def enqueue(self) -> None:
        """See ``Run.enqueue``."""
        bound, call = self.bound, self.call
        bound.set_shape(graph_io.INPUT_IDS, (call.num_rows, call.num_tokens))
        bound.set_shape(graph_io.WRITE_INDICES, (call.num_rows,))
        bound.set_shape(graph_io.LOGITS_INDICES, (call.num_logits,))
        for name, address in call.addresses.items():
            bound.set_address(name, address)
        for past, present, address in self.cache_addresses:
            bound.set_shape(past, self.cache_shape)
            bound.set_address(past, address)
            bound.set_address(present, address)
        if missing := bound.context.infer_shapes():
            raise DeviceError(f"the plan lacks a shape for {', '.join(missing)}; rebuild it with 'powertrain engine'")
        if not bound.context.execute_async_v3(self.stream):
            raise DeviceError("the plan refused to run; see the log for TensorRT's reason")


class TrtRunner:
    """``runtime.session.gpu.runner.Runner`` over a plan.

    ``make_context`` creates an execution context. ``records_decode`` lets the device record decode steps as CUDA
    graphs: a recorded step belongs to a context whose shapes and addresses stay as they were, so every recorded
    shape gets a context of its own. TensorRT for RTX captures by itself and is given False. ``on_close`` is called
    while the contexts are still there.
    """

    def __init__(
        self,
        plan: CudaEngine,
        make_context: Callable[[], Context],
        device: Device,
        shape: ModelShape,
        *,
        records_decode: bool,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self._make_context, self._device, self._on_close = make_context, device, on_close
        self._limits = limits_of_plan(plan, shape)
        self._cache_names = graph_io.cache_names(shape.num_layers)
        self._head_shape = (shape.num_kv_heads, self._limits.capacity, shape.head_dim)
        self._num_recordable = _MAX_RECORDED if records_decode else 0
        self._shared = {PREFILL_PROFILE: self._bound(PREFILL_PROFILE)}

    @property
    def limits(self) -> Limits:
        """From the plan's profiles."""
        return self._limits

    def prepare(self, call: Call, arena: DeviceArena) -> _TrtRun:
        """See ``Runner.prepare``. The first ``_MAX_RECORDED`` decode shapes, if any, get contexts of their own."""
        addresses = tuple(
            (past, present, arena.address(block, call.first_slot))
            for block, (past, present) in enumerate(self._cache_names)
        )
        bound, is_own = self._context_for(call)
        return _TrtRun(bound, call, (call.num_rows, *self._head_shape), addresses, self._device.stream, is_own)

    def close(self) -> None:
        """Drop the contexts."""
        self._on_close()
        self._shared.clear()

    def _context_for(self, call: Call) -> tuple[_Bound, bool]:
        """A context, and whether it is this call's alone."""
        if call.is_decode and self._num_recordable:
            self._num_recordable -= 1
            return self._bound(DECODE_PROFILE), True
        profile = DECODE_PROFILE if call.is_decode else PREFILL_PROFILE
        if profile not in self._shared:
            self._shared[profile] = self._bound(profile)
        return self._shared[profile], False

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
