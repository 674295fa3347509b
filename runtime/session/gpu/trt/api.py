"""The part of TensorRT's runtime API that powertrain uses, as types: ``tensorrt`` and ``tensorrt_rtx`` both have it.

Method names and meanings are NVIDIA's (TensorRT 11 and TensorRT for RTX 1.7 Python reference: ICudaEngine,
IExecutionContext). Written down so that the code above it is checked and can be run against a double on the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class NamedEnum(Protocol):
    """A member of one of TensorRT's enumerations, such as ``DataType.HALF``."""

    @property
    def name(self) -> str:
        """The member's name."""
        ...


class Context(Protocol):
    """``IExecutionContext``. Every bool says whether the call was accepted."""

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int, /) -> bool:
        """Switch the profile; voids every input shape set before."""
        ...

    def set_device_memory(self, memory: int, size: int) -> None:
        """Memory for activations, aligned to 256 bytes, in use by every execution until it is over."""
        ...

    def set_input_shape(self, name: str, shape: Sequence[int], /) -> bool:
        """Shape of an input for the next execution."""
        ...

    def set_tensor_address(self, name: str, memory: int, /) -> bool:
        """Device address of an input or output for the next execution."""
        ...

    def infer_shapes(self) -> list[str]:
        """Names of the inputs that lack a shape or a value; empty when the context is ready. Raises RuntimeError."""
        ...

    def execute_async_v3(self, stream_handle: int, /) -> bool:
        """Queue one execution."""
        ...


class CudaEngine(Protocol):
    """``ICudaEngine``."""

    @property
    def num_io_tensors(self) -> int:
        """Inputs and outputs together."""
        ...

    @property
    def num_optimization_profiles(self) -> int:
        """Profiles that the plan was built with."""
        ...

    @property
    def device_memory_size_v2(self) -> int:
        """Bytes of memory for activations that the profile which needs the most needs."""
        ...

    def get_tensor_name(self, index: int, /) -> str:
        """Name of an input or output."""
        ...

    def get_tensor_dtype(self, name: str, /) -> NamedEnum:
        """``HALF``, ``BF16``, ``FLOAT``, ``INT64``..."""
        ...

    def get_tensor_location(self, name: str, /) -> NamedEnum:
        """``DEVICE`` or ``HOST``: where the address must point."""
        ...

    def get_tensor_profile_shape(self, name: str, profile_index: int, /) -> Sequence[Sequence[int]]:
        """Smallest, best and largest shape of an input."""
        ...

    def get_aliased_input_tensor(self, name: str, /) -> str | None:
        """The input whose memory an output must share; None for none."""
        ...
