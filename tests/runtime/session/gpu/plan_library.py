"""A double of the TensorRT module, as far as a session on a plan sees it."""

from __future__ import annotations

import weakref
from types import SimpleNamespace
from typing import Any

from tests.host_device import HostDevice, HostError
from tests.host_tensorrt import HostContext, HostCudaEngine, HostSelectionEngine


class FakeCache:
    """A runtime cache that accepts only what a cache wrote, and is asked for it while its contexts are there."""

    def __init__(self, plan: FakeCudaEngine) -> None:
        self.plan = plan
        self.loaded = b""

    def deserialize(self, blob: bytes) -> bool:
        if not blob:
            raise HostError("nothing was given to a cache, which would take it for another GPU's")
        self.loaded = blob if blob.startswith(b"kernels") else b""
        return bool(self.loaded)

    def serialize(self) -> bytes | None:
        """One byte for each shape that was compiled."""
        if not self.plan.contexts:
            raise HostError("kernels were asked for after the contexts were gone")
        return None if "serialize" in self.plan.refused else b"kernels" + bytes(len(self.plan.compiled))


class RuntimeConfig(SimpleNamespace):
    """``IRuntimeConfig``, of which an assignment may be refused without a sign."""

    refuses_capture = False

    def __setattr__(self, name: str, value: object) -> None:
        if not (name == "cuda_graph_strategy" and self.refuses_capture):
            super().__setattr__(name, value)


class FakeCudaEngine(HostCudaEngine):
    """A plan whose contexts and runtime configuration are those of the library that loaded it."""

    device: HostDevice
    runtime_caches: list[FakeCache]
    how: list[Any]

    def create_execution_context(self, how: Any) -> HostContext | None:
        self.how.append(how)
        return super().create_execution_context(self.device)

    def create_runtime_config(self) -> RuntimeConfig:
        config = RuntimeConfig(strategies=[], cuda_graph_strategy=None, cache=None)
        config.refuses_capture = "cuda_graph_strategy" in self.refused
        config.set_execution_context_allocation_strategy = config.strategies.append

        def create() -> FakeCache:
            self.runtime_caches.append(FakeCache(self))
            return self.runtime_caches[-1]

        def put(cache: FakeCache) -> bool:
            config.cache = cache
            return "set_runtime_cache" not in self.refused

        config.create_runtime_cache = create
        config.set_runtime_cache = put
        return config


class FakeHead(FakeCudaEngine, HostSelectionEngine):
    """The same of a selection head's plan."""


class Handle:
    """What a library hands out for an object: the object ends, for the library, when nobody holds the handle."""

    def __init__(self, of: object) -> None:
        self._of = of

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)


def fake_library(
    plan: FakeCudaEngine | None, *, is_rtx: bool, validity: str = "VALID", head: FakeHead | None = None
) -> SimpleNamespace:
    """``tensorrt`` or ``tensorrt_rtx``, as far as a session sees it.

    ``deserialized`` has the bytes and the type of each plan that was loaded; ``ended`` tells the order in which the
    plan and the runtime went, and how many contexts there were.
    """
    deserialized, ended = list[tuple[bytes, type]](), list[tuple[str, int]]()

    def deserialize(data: Any) -> Handle | None:
        deserialized.append((bytes(data), type(data)))
        found = plan if len(deserialized) == 1 else head
        if found is None:
            return None
        name, handle = ("plan" if found is plan else "head"), Handle(found)
        weakref.finalize(handle, lambda: ended.append((name, len(found.contexts))))
        return handle

    def make_runtime(_logger: object) -> Handle:
        handle = Handle(
            SimpleNamespace(
                engine_header_size=4,
                get_engine_validity=lambda header: (SimpleNamespace(name=validity), bytes(header)),
                deserialize_cuda_engine=deserialize,
            )
        )
        weakref.finalize(handle, lambda: ended.append(("runtime", 0)))
        return handle

    module = SimpleNamespace(
        Runtime=make_runtime,
        Logger=type("Logger", (), {"WARNING": 1, "__init__": lambda _self, _level: None}),
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user managed"),
        deserialized=deserialized,
        ended=ended,
    )
    if is_rtx:
        module.CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole graph")
        module.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="at once")
    return module
