"""A run of a TensorRT plan: a context, the shapes and addresses set on it, and the block of scratch memory it uses.

Only shapes and addresses that changed are set again, and every refusal is an error. Knows no tensor by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from runtime.errors import DeviceError
from runtime.session.device import Device
from runtime.session.gpu.trt.api import Context, CudaEngine


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
class Bound:
    """A context and what was last set on it."""

    context: Context
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    addresses: dict[str, int] = field(default_factory=dict)
    are_shapes_inferred: bool = False

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Set an input's shape. Raises DeviceError."""
        if self.shapes.get(name) != shape:
            self.are_shapes_inferred = False
            self.shapes.pop(name, None)
            if not self.context.set_input_shape(name, shape):
                raise DeviceError(f"the plan refused shape {list(shape)} for {name!r}; rebuild it with larger profiles")
            self.shapes[name] = shape

    def set_address(self, name: str, address: int) -> None:
        """Set where an input or output lies. Raises DeviceError."""
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
class TrtRun:
    """Shapes and addresses, and the context that runs them. Nothing else may use the context if the run is recorded.

    ``idle`` takes the context back if it is this run's alone.
    """

    bound: Bound
    shapes: dict[str, tuple[int, ...]]
    addresses: dict[str, int]
    stream: int
    idle: list[Bound] | None

    @property
    def may_be_recorded(self) -> bool:
        """See ``Run.may_be_recorded``."""
        return self.idle is not None

    def enqueue(self) -> None:
        """See ``Run.enqueue``."""
        bound = self.bound
        for name, shape in self.shapes.items():
            bound.set_shape(name, shape)
        for name, address in self.addresses.items():
            bound.set_address(name, address)
        bound.infer_shapes()
        if not bound.context.execute_async_v3(self.stream):
            raise DeviceError("the plan refused to run; see the log for TensorRT's reason")

    def close(self) -> None:
        """See ``Run.close``."""
        if self.idle is not None:
            self.idle.append(self.bound)


class Contexts:
    """The contexts of one plan, all made at the start. They share a block of scratch memory, since runs follow each
    other on one stream."""

    def __init__(self, plan: OpenPlan, device: Device) -> None:
        self._plan, self._device = plan, device
        self.scratch_bytes = plan.engine.device_memory_size_v2
        self._scratch = device.allocate(self.scratch_bytes)
        self._all: list[Bound] = []

    def made(self, profile: int, count: int = 1) -> list[Bound]:
        """So many more contexts of a profile. Raises DeviceError; nothing is left then."""
        try:
            return [self._bound(profile) for _ in range(count)]
        except BaseException:
            self.drop()
            raise

    def drop(self) -> None:
        """Drop them even where somebody still holds a run, as the traceback of an error does."""
        while self._all:
            del self._all.pop().context

    def _bound(self, profile: int) -> Bound:
        bound = Bound(self._plan.make_context())
        self._all.append(bound)
        if not bound.context.set_optimization_profile_async(profile, self._device.stream):
            raise DeviceError(f"the plan has no profile {profile}; rebuild it with 'powertrain engine'")
        self._device.synchronize()  # the switch must be over before shapes are set
        bound.context.set_device_memory(self._scratch, self.scratch_bytes)
        return bound
