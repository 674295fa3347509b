"""HostCudaBase: what HostCuda's calls share: its memory, streams and graphs, and how work gets into a stream."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from runtime.session.device import Bytes
from tests.host_cuda_memory import Block, HostCudaError, HostMemory
from tests.host_cuda_names import cudaError_t
from tests.host_cuda_state import Event, Graph, HostGpu, Issue, Stream, Work

FIRST_STREAM = 7


class HostCudaBase:
    """What was made and queued so far. ``refusals`` maps a function's name to the status that it is to answer with;
    ``poisoned`` is the status that everything answers with. ``calls`` are the names of what was called, in order."""

    def __init__(self, *gpus: HostGpu) -> None:
        self.gpus: tuple[HostGpu, ...] = gpus or (HostGpu("00000000-0000-0000-0000-0000000000aa"),)
        self.memory = HostMemory()
        self.streams: dict[int, Stream] = {}
        self.events: set[Event] = set()
        self.graphs: set[Graph] = set()
        self.executables: set[Graph] = set()
        self.given_up: set[Graph] = set()
        self.current: dict[int, int] = {}
        self.refusals: dict[str, int] = {}
        self.poisoned = 0
        self.calls: list[str] = []
        self.on_upload: Callable[[int, int], None] = lambda _address, _num_bytes: None
        self.on_capture: Callable[[list[Work] | None], None] = lambda _captured: None
        self._handles = iter(range(FIRST_STREAM, 2**31))

    # What tests ask.

    def leftovers(self) -> dict[str, int]:
        """What was made and not given back, by kind; empty when nothing leaks."""
        counts = {
            "device memory": self.memory.count("device"),
            "pinned memory": self.memory.count("pinned"),
            "streams": len(self.streams),
            "events": len(self.events),
            "graphs": len(self.graphs),
            "executable graphs": len(self.executables),
        }
        return {kind: count for kind, count in counts.items() if count}

    def view(self, address: int, num_bytes: int, kind: str = "device") -> Bytes:
        """The bytes at an address, as a kernel would see them."""
        return self.memory.area(address, kind, width=num_bytes).block.bytes_at(address, num_bytes)

    def push(self, stream: int, issue: Issue, *spans: tuple[int, int]) -> None:
        """Queue a kernel on a stream, which uses device memory at ``spans`` (address, bytes)."""
        blocks = tuple(self.memory.area(address, "device", width=num_bytes).block for address, num_bytes in spans)
        self._enter(self.streams[stream], Work(issue, blocks))

    # What its calls share.

    def _current(self) -> int:
        """The calling thread's GPU, which is CUDA's first for a thread that never chose."""
        chosen = self.current.get(threading.get_ident())
        if chosen is None:
            raise HostCudaError("this thread chose no GPU; CUDA would take its first")
        return chosen

    def _free_bytes(self, ordinal: int) -> int:
        gpu = self.gpus[ordinal]
        return gpu.memory_bytes - gpu.used_bytes - self.memory.used_bytes(ordinal)

    def _queue(self, stream: Any, issue: Issue, *blocks: Block) -> Any:
        found = self._stream(stream)
        if found is None:
            return cudaError_t.cudaErrorInvalidResourceHandle
        if any(block.kind == "device" and block.ordinal != found.ordinal for block in blocks):
            raise HostCudaError("a stream of one GPU was given memory of another")
        self._enter(found, Work(issue, blocks))
        return ()

    def _enter(self, stream: Stream, work: Work) -> None:
        if stream.captured is not None:
            stream.captured.append(work)
            return
        if freed := [block for block in work.blocks if block.is_freed]:
            raise HostCudaError(f"work uses memory that was freed: {freed[0].base:#x}")
        stream.queue.append(work.issue())
        stream.queued_blocks.update(work.blocks)

    def _stream(self, stream: Any) -> Stream | None:
        """The stream behind a handle, for a thread on its GPU; None if there is none."""
        if not isinstance(stream, Stream | int):
            raise TypeError(f"a stream is wanted, not {stream!r}")
        found = self.streams.get(int(stream))
        if found is not None and self._current() != found.ordinal:
            raise HostCudaError(f"a stream of GPU {found.ordinal} was used by a thread on GPU {self._current()}")
        return found

    def note_refusal(self, name: str, args: tuple[Any, ...]) -> None:
        """A stream is out of capture, and a graph is given up, whatever the end of them was answered with."""
        if name == "cudaStreamEndCapture" and int(args[0]) in self.streams:
            self.streams[int(args[0])].captured = None
            self.on_capture(None)
        if name == "cudaGraphExecDestroy":
            self.given_up.add(args[0])

    def _captured_here(self) -> Stream | None:
        here = threading.get_ident()
        captured = (one for one in self.streams.values() if one.captured is not None and one.capturing_thread == here)
        return next(captured, None)

    def _invalidated(self, stream: Stream) -> Any:
        stream.is_invalidated = True
        return cudaError_t.cudaErrorStreamCaptureUnsupported
