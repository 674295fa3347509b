"""HostCuda's streams and graphs: captured, instantiated, launched, by rules that CUDA states and does not check."""

from __future__ import annotations

import operator
import threading
from typing import Any

from tests import host_cuda_names as names
from tests.host_cuda_base import HostCudaBase
from tests.host_cuda_memory import HostCudaError
from tests.host_cuda_names import cudaError_t, cudaStreamCaptureMode
from tests.host_cuda_state import Event, Graph, Stream, answers


class StreamCalls(HostCudaBase):
    """The functions of ``cuda.bindings.runtime`` about streams, events and graphs."""

    @answers(1)
    def cudaStreamCreateWithFlags(self, flags: int) -> Any:  # noqa: N802
        if flags not in {0, names.cudaStreamNonBlocking}:
            return cudaError_t.cudaErrorInvalidValue
        if not flags:
            raise HostCudaError("a blocking stream waits for the legacy stream, and no library may use that in capture")
        stream = Stream(next(self._handles), self._current())
        self.streams[stream.handle] = stream
        return (stream,)

    @answers(0)
    def cudaStreamDestroy(self, stream: Any) -> Any:  # noqa: N802
        found = self._stream(stream)
        if found is None:
            return cudaError_t.cudaErrorInvalidResourceHandle
        if found.queue:
            raise HostCudaError("a stream was destroyed with work in it")
        if found.captured is not None or any(
            one.stream is found for one in (self.executables - self.given_up) | self.graphs
        ):
            raise HostCudaError("a stream was destroyed before the graphs that were captured from it")
        del self.streams[found.handle]
        return ()

    @answers(0)
    def cudaStreamSynchronize(self, stream: Any) -> Any:  # noqa: N802
        found = self._stream(stream)
        if found is None:
            return cudaError_t.cudaErrorInvalidResourceHandle
        if found.captured is not None:
            return self._invalidated(found)
        while found.queue:
            found.queue.pop(0)()
            if self.poisoned:  # a kernel did it
                found.queue.clear()
        found.queued_blocks.clear()
        return self.poisoned or ()

    @answers(1)
    def cudaEventCreateWithFlags(self, flags: int) -> Any:  # noqa: N802
        if flags not in {0, names.cudaEventDisableTiming}:
            return cudaError_t.cudaErrorInvalidValue
        event = Event(self._current())
        self.events.add(event)
        return (event,)

    @answers(0)
    def cudaEventDestroy(self, event: Any) -> Any:  # noqa: N802
        if event not in self.events:
            return cudaError_t.cudaErrorInvalidResourceHandle
        self.events.remove(event)
        return ()

    @answers(0)
    def cudaEventRecord(self, event: Any, stream: Any) -> Any:  # noqa: N802
        found = self._stream(stream)
        if found is None or event not in self.events or event.ordinal != found.ordinal:
            return cudaError_t.cudaErrorInvalidResourceHandle
        if found.captured is not None:
            raise HostCudaError("an event recorded in a capture is a node of the graph, and marks nothing")
        event.stream, event.is_passed = found, False
        found.queue.append(lambda: setattr(event, "is_passed", True))
        return ()

    @answers(0)
    def cudaEventSynchronize(self, event: Any) -> Any:  # noqa: N802
        if event not in self.events:
            return cudaError_t.cudaErrorInvalidResourceHandle
        if event.stream is not None and event.stream.captured is not None:
            return self._invalidated(event.stream)
        while event.stream is not None and not event.is_passed and event.stream.queue:
            event.stream.queue.pop(0)()
            if self.poisoned:
                event.stream.queue.clear()
        return self.poisoned or ()

    @answers(0)
    def cudaStreamBeginCapture(self, stream: Any, mode: cudaStreamCaptureMode) -> Any:  # noqa: N802
        found = self._stream(stream)
        if found is None:
            return cudaError_t.cudaErrorInvalidResourceHandle
        if not isinstance(mode, cudaStreamCaptureMode):
            raise TypeError(f"a capture mode is wanted, not {mode!r}")
        if mode is cudaStreamCaptureMode.cudaStreamCaptureModeGlobal:
            raise HostCudaError("a global capture is invalidated by what any other thread allocates")
        if found.captured is not None:
            return cudaError_t.cudaErrorIllegalState
        found.captured, found.capturing_thread, found.is_invalidated = [], threading.get_ident(), False
        self.on_capture(found.captured)
        return ()

    @answers(1)
    def cudaStreamEndCapture(self, stream: Any) -> Any:  # noqa: N802
        found = self._stream(stream)
        if found is None:
            return cudaError_t.cudaErrorInvalidResourceHandle
        if found.captured is None:
            return cudaError_t.cudaErrorIllegalState
        if found.capturing_thread != threading.get_ident():
            return cudaError_t.cudaErrorStreamCaptureWrongThread
        work, found.captured = found.captured, None
        self.on_capture(None)
        if found.is_invalidated:
            return cudaError_t.cudaErrorStreamCaptureInvalidated
        graph = Graph(work, found)
        self.graphs.add(graph)
        return (graph,)

    @answers(1)
    def cudaGraphInstantiate(self, graph: Any, flags: int) -> Any:  # noqa: N802
        if graph not in self.graphs or operator.index(flags):
            return cudaError_t.cudaErrorInvalidValue
        executable = Graph(list(graph.work), graph.stream)
        self.executables.add(executable)
        return (executable,)

    @answers(0)
    def cudaGraphDestroy(self, graph: Any) -> Any:  # noqa: N802
        if graph not in self.graphs:
            return cudaError_t.cudaErrorInvalidValue
        self.graphs.remove(graph)
        return ()

    @answers(0)
    def cudaGraphExecDestroy(self, graphExec: Any) -> Any:  # noqa: N802, N803
        if graphExec not in self.executables:
            return cudaError_t.cudaErrorInvalidValue
        self.executables.remove(graphExec)
        return ()

    @answers(0)
    def cudaGraphLaunch(self, graphExec: Any, stream: Any) -> Any:  # noqa: N802, N803
        found = self._stream(stream)
        if found is None or graphExec not in self.executables:
            return cudaError_t.cudaErrorInvalidValue
        if found.captured is not None:
            return self._invalidated(found)
        for work in graphExec.work:
            self._enter(found, work)
        return ()
