"""What HostCuda consists of: its GPUs, streams and graphs, and how a function of CUDA's answers."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.host_cuda_memory import Block
from tests.host_cuda_names import cudaError_t


@dataclass(frozen=True)
class HostGpu:
    """One GPU that the double shows. ``split``: what ``nvidia-smi`` would call a MIG part."""

    uuid: str
    name: str = "Host GPU"
    capability: tuple[int, int] = (8, 9)
    memory_bytes: int = 2**30
    used_bytes: int = 2**20
    integrated: int = 0


Run = Callable[[], None]
Issue = Callable[[], Run]
"""Work for a stream: called as it enters the stream, at every launch of its graph too; what it returns runs later."""


@dataclass(frozen=True)
class Work:
    """One thing that a stream or a graph holds, and the memory that it uses."""

    issue: Issue
    blocks: tuple[Block, ...]


@dataclass(eq=False)
class Stream:
    """``queue`` is what was issued and has not run; ``captured`` is the graph that is being made, if one is."""

    handle: int
    ordinal: int
    queue: list[Run] = field(default_factory=list)
    queued_blocks: set[Block] = field(default_factory=set)
    captured: list[Work] | None = None
    capturing_thread: int = 0
    is_invalidated: bool = False

    def __int__(self) -> int:
        return self.handle


@dataclass(eq=False)
class Event:
    """``stream`` is where it was last recorded, None before; ``is_passed`` once the stream has come there."""

    ordinal: int
    stream: Stream | None = None
    is_passed: bool = True


@dataclass(eq=False)
class Graph:
    """A captured graph, and an instantiated one."""

    work: list[Work]
    stream: Stream


class Answering(Protocol):
    """What ``answers`` needs of the object whose method it wraps."""

    calls: list[str]
    refusals: dict[str, int]
    poisoned: int

    def note_refusal(self, name: str, args: tuple[Any, ...]) -> None: ...


def answers(num_values: int) -> Callable[[Callable[..., Any]], Callable[..., tuple[Any, ...]]]:
    """A function of CUDA's with so many values behind its status: counts, refuses and is poisoned as told."""

    def wrap(function: Callable[..., Any]) -> Callable[..., tuple[Any, ...]]:
        name = function.__name__
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(self: Answering, *args: Any) -> tuple[Any, ...]:
            signature.bind(self, *args)  # arity, and no keywords: TypeError, as from the real binding
            self.calls.append(name)
            refused = self.refusals.get(name, 0) or self.poisoned
            if refused:
                self.note_refusal(name, args)
            status = refused or function(self, *args)
            if isinstance(status, tuple):
                return (cudaError_t.cudaSuccess, *status)
            return (cudaError_t(status or 0), *[None] * num_values)

        return call

    return wrap
