"""Runs a TensorRT plan: contexts, profiles, shapes and addresses. Knows one plan and the cache's addresses.

The plan has two profiles, decode and prefill, and each gets contexts of its own, so that going from one to the other
switches nothing. All contexts are made at the start and share one block of scratch memory, since their runs follow
each other on one stream. Past and present of a cache are one address, which the plan demands through its aliases.
Only shapes and addresses that changed are set again, and every refusal is an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

from runtime.errors import DeviceError
from runtime.package import dtypes, graph_io
from runtime.package.graph_profiles import prefill_buckets
from runtime.package.manifest import ModelShape
from runtime.session.device import Device
from runtime.session.gpu.device_arena import DeviceArena
from runtime.session.gpu.runner import Call, Limits
from runtime.session.gpu.trt.api import Context, CudaEngine

DECODE_PROFILE = 0
PREFILL_PROFILE = 1

MAX_RECORDED = 32
"""Decode shapes that are recorded at a time: each has a context to itself, which must stay as it was recorded."""

_CACHE_TYPES = {kind.tensorrt_name: kind for kind in dtypes.FLOATS}


class OpenPlan(Protocol):
    """A plan in memory. ``compiles_per_shape``: every new shape costs a compilation, and decode steps are captured by
    the library itself; else they are recorded by the device."""

    @property
    def compiles_per_shape(self) -> bool:
        """See the class."""
        ...

    @property
    def engine(self) -> CudaEngine:
        """The plan."""
        ...

    def make_context(self) -> Context:
        """An execution context without memory for activations. Raises DeviceError."""
        ...

    def save_kernels(self) -> None:
        """Keep what was compiled so far; asked for while there are contexts."""
        ...

    def close(self) -> None:
        """Drop the plan, after every context was dropped."""
        ...


@dataclass(slots=True)
class _Bound:
    """A context and what was last set on it."""

    context: Context
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    addresses: dict[str, int] = field(default_factory=dict)
    are_shapes_inferred: bool = False

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        if self.shapes.get(name) != shape:
            self.are_shapes_inferred = False
            self.shapes.pop(name, None)
            if not self.context.set_input_shape(name, shape):
                raise DeviceError(f"the plan refused shape {list(shape)} for {name!r}; rebuild it with larger profiles")
            self.shapes[name] = shape

    def set_address(self, name: str, address: int) -> None:
        if self.addresses.get(name) != address:
            self.addresses.pop(name, None)
            if not self.context.set_tensor_address(name, address):
                raise DeviceError(f"the plan refused an address for {name!r}; rebuild it with 'powertrain engine'")
            self.addresses[name] = address

    def infer_shapes(self) -> None:
        """Have TensorRT derive the other shapes, which takes it a while, if an input's changed since it last did."""
        if self.are_shapes_inferred:
            return
        try:
            missing = self.context.infer_shapes()
        except RuntimeError as error:
            raise DeviceError(f"the plan cannot run these shapes ({error}); rebuild it") from error
        if missing:
            raise DeviceError(f"the plan lacks a shape for {', '.join(missing)}; rebuild it with 'powertrain engine'")
        self.are_shapes_inferred = True


@dataclass(frozen=True, slots=True)
class _TrtRun:
    """A call and the context that runs it. Nothing else may use the context if the run is recorded.

    ``idle`` takes the context back if it is this run's alone.
    """

    bound: _Bound
    call: Call
    cache_shape: tuple[int, ...]
    cache_addresses: tuple[tuple[str, str, int], ...]
    stream: int
    idle: list[_Bound] | None

    @property
    def may_be_recorded(self) -> bool:
        """See ``Run.may_be_recorded``."""
        return self.idle is not None

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
        bound.infer_shapes()
        if not bound.context.execute_async_v3(self.stream):
            raise DeviceError("the plan refused to run; see the log for TensorRT's reason")

    def close(self) -> None:
        """See ``Run.close``."""
        if self.idle is not None:
            self.idle.append(self.bound)


class TrtRunner:
    """``runtime.session.gpu.runner.Runner`` over a plan, which it closes.

    A step that the device records belongs to a context whose shapes and addresses stay as they were ("modifying the
    context from which the graph was captured will result in undefined behavior", NVIDIA), so every kept decode shape
    has a context to itself. Where the library captures, one context serves them all.
    """

    def __init__(self, plan: OpenPlan, device: Device, shape: ModelShape) -> None:
        self._plan, self._device = plan, device
        self._limits = limits_of_plan(plan.engine, shape)
        self._cache_names = graph_io.cache_names(shape.num_layers)
        self._head_shape = (shape.num_kv_heads, self._limits.capacity, shape.head_dim)
        self._scratch_bytes = plan.engine.device_memory_size_v2
        self._scratch = device.allocate(self._scratch_bytes)
        num_ranges = self._limits.num_slots * (self._limits.num_slots + 1) // 2
        num_decode = 1 if plan.compiles_per_shape else min(MAX_RECORDED, num_ranges)
        self._all: list[_Bound] = []
        try:
            self._prefill = self._bound(PREFILL_PROFILE)
            self._decode = [self._bound(DECODE_PROFILE) for _ in range(num_decode)]
        except BaseException:
            self._drop_contexts()
            raise
        if plan.compiles_per_shape:
            tokens, logits = prefill_buckets(self._limits.prefill_tokens), (1, self._limits.max_logits)
            self._limits = replace(self._limits, prefill_buckets=tokens, logits_buckets=logits)
        else:
            self._limits = replace(self._limits, max_kept=num_decode)

    @property
    def limits(self) -> Limits:
        """From the plan's profiles."""
        return self._limits

    @property
    def scratch_bytes(self) -> int:
        """The block that all contexts share."""
        return self._scratch_bytes

    def prepare(self, call: Call, arena: DeviceArena) -> _TrtRun:
        """See ``Runner.prepare``."""
        addresses = tuple(
            (past, present, arena.address(block, call.first_slot))
            for block, (past, present) in enumerate(self._cache_names)
        )
        bound, idle = self._prefill, None
        if call.is_decode:
            own = not self._plan.compiles_per_shape
            bound, idle = (self._decode.pop(), self._decode) if own else (self._decode[0], None)
        return _TrtRun(bound, call, (call.num_rows, *self._head_shape), addresses, self._device.stream, idle)

    def close(self) -> None:
        """Keep the compiled kernels, drop the contexts, and then the plan."""
        self._plan.save_kernels()
        self._drop_contexts()
        self._plan.close()

    def _drop_contexts(self) -> None:
        """Drop them even where somebody still holds a run, as the traceback of an error does."""
        while self._all:
            del self._all.pop().context

    def _bound(self, profile: int) -> _Bound:
        bound = _Bound(self._plan.make_context())
        self._all.append(bound)
        if not bound.context.set_optimization_profile_async(profile, self._device.stream):
            raise DeviceError(f"the plan has no profile {profile}; rebuild it with 'powertrain engine'")
        self._device.synchronize()  # the switch must be over before shapes are set
        bound.context.set_device_memory(self._scratch, self._scratch_bytes)
        return bound


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
