"""Runs a TensorRT plan: contexts, profiles, shapes and addresses. Knows one plan and the cache's addresses.

The plan has two profiles, decode and prefill, and each gets contexts of its own, so that going from one to the other
switches nothing. Past and present of a cache are one address, which the plan demands through its aliases.
"""

from __future__ import annotations

from dataclasses import replace

from runtime.errors import DeviceError
from runtime.package import dtypes, graph_io
from runtime.package.graph_profiles import prefill_buckets
from runtime.package.manifest import ModelShape
from runtime.session.device import Device
from runtime.session.gpu.device_arena import DeviceArena
from runtime.session.gpu.runner import Call, Limits, decode_buckets
from runtime.session.gpu.trt.api import CudaEngine
from runtime.session.gpu.trt.bound_run import Contexts, OpenPlan, TrtRun

DECODE_PROFILE = 0
PREFILL_PROFILE = 1

_CACHE_TYPES = {kind.tensorrt_name: kind for kind in dtypes.FLOATS}


class TrtRunner:
    """``runtime.session.gpu.runner.Runner`` over a plan, which it closes.

    A step that the device records belongs to a context whose shapes and addresses stay as they were ("modifying the
    context from which the graph was captured will result in undefined behavior", NVIDIA), so every size of decode calls
    has contexts to itself, one for each of ``num_lanes``. Where the library captures, one context serves them all.
    """

    def __init__(self, plan: OpenPlan, device: Device, shape: ModelShape, *, num_lanes: int = 1) -> None:
        self._plan, self._device = plan, device
        self._limits = replace(limits_of_plan(plan.engine, shape), num_lanes=num_lanes)
        self._cache_names = graph_io.cache_names(shape.num_layers)
        self._head_shape = (shape.num_kv_heads, self._limits.capacity, shape.head_dim)
        self._contexts = Contexts(plan, device)
        num_decode = 1 if plan.compiles_per_shape else num_lanes * len(decode_buckets(self._limits.num_slots))
        (self._prefill,) = self._contexts.made(PREFILL_PROFILE)
        self._decode = self._contexts.made(DECODE_PROFILE, num_decode)
        if plan.compiles_per_shape:
            tokens, logits = prefill_buckets(self._limits.prefill_tokens), (1, self._limits.max_logits)
            self._limits = replace(self._limits, prefill_buckets=tokens, logits_buckets=logits)

    @property
    def limits(self) -> Limits:
        """From the plan's profiles."""
        return self._limits

    @property
    def scratch_bytes(self) -> int:
        """The block that all contexts share."""
        return self._contexts.scratch_bytes

    def prepare(self, call: Call, arena: DeviceArena) -> TrtRun:
        """See ``Runner.prepare``."""
        shapes: dict[str, tuple[int, ...]] = {
            graph_io.INPUT_IDS: (call.num_rows, call.num_tokens),
            graph_io.WRITE_INDICES: (call.num_rows,),
            graph_io.LOGITS_INDICES: (call.num_logits,),
        }
        addresses = dict(call.addresses)
        for block, (past, present) in enumerate(self._cache_names):
            shapes[past] = (call.num_rows, *self._head_shape)
            addresses[past] = addresses[present] = arena.address(block, call.first_slot)
        bound, idle = self._prefill, None
        if call.is_decode:
            own = not self._plan.compiles_per_shape
            bound, idle = (self._decode.pop(), self._decode) if own else (self._decode[0], None)
        return TrtRun(bound, shapes, addresses, self._device.stream, idle)

    def close(self) -> None:
        """Keep the compiled kernels, drop the contexts, and then the plan."""
        self._plan.save_kernels()
        self._contexts.drop()
        self._plan.close()


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
