"""HostDevice: a device in host memory under a stream that runs late, strict where a GPU would be silently wrong.

A "stream" is a list of work that runs, in order, when somebody synchronizes: a result read too early, or an input
changed too early, shows. Host memory of a copy must be pinned; what is uploaded must not change, and what is
downloaded is poisoned, until the stream was waited for. Nothing waits or allocates while a step is recorded, only one
thread may call, and nothing may point into memory when the device is closed, or use it afterwards. Knows no library
that runs graphs.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from runtime.errors import DeviceError, DeviceOutOfMemory, RecordingRefused
from runtime.session.device import ALIGNMENT_BYTES, Bytes

STREAM = 7
POISON = 0xFF
"""Of host memory that the stream has yet to write; as float32 it is no number."""

Span = tuple[int, int]
"""First address and the one after the last."""


class HostError(AssertionError):
    """What TensorRT or CUDA would have answered with garbage or a crash."""


Issue = Callable[[], Callable[[], None]]
"""Work for a stream: called as it enters the stream, also at every replay; what it returns runs at the next wait."""


@dataclass(eq=False)
class HostDevice:
    """``runtime.session.device.Device`` in host memory, with a stream that runs late.

    ``holders`` are contexts and bindings that point into its memory, which must be gone when it closes. It has
    ``limit_bytes`` of memory, and takes recordings unless it ``refuses_recordings``. ``order`` is what a host did, in
    turn: "mark 0" where it set the first of its marks, "wait 0" where it waited for that, "wait" for all.
    """

    blocks: dict[int, Bytes] = field(default_factory=dict)
    pinned_blocks: list[Bytes] = field(default_factory=list)
    queue: list[Callable[[], None]] = field(default_factory=list)
    recording: HostRecording | None = None
    recordings: list[HostRecording] = field(default_factory=list)
    limit_bytes: int = 2**40
    refuses_recordings: bool = False
    thread: int = field(default_factory=threading.get_ident)
    fresh: dict[Span, set[str]] = field(default_factory=dict)
    holders: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet)
    launches: int = 0
    order: list[str] = field(default_factory=list)
    ordinal: int = 0
    num_marks: int = 0
    downloaded_bytes: list[int] = field(default_factory=list)
    closed: bool = False

    @property
    def stream(self) -> int:
        return STREAM

    def memory_bytes(self) -> tuple[int, int]:
        self.check_open()
        return 2**33, 2**34

    def allocate(self, num_bytes: int) -> int:
        self.check_usable("memory was asked for")
        if num_bytes + sum(map(len, self.blocks.values())) > self.limit_bytes:
            raise DeviceOutOfMemory(f"CUDA failed allocating {num_bytes:,} bytes on the GPU")
        raw = np.zeros(num_bytes + 2 * ALIGNMENT_BYTES, np.uint8)
        address = int(raw.ctypes.data) + -raw.ctypes.data % ALIGNMENT_BYTES
        begin = address - raw.ctypes.data
        self.blocks[address] = raw[begin : begin + num_bytes]
        return address

    def pinned(self, num_bytes: int) -> Bytes:
        self.check_usable("memory was asked for")
        self.pinned_blocks.append(np.full(-(-num_bytes // 8) * 8, POISON, np.uint8)[:num_bytes])
        return self.pinned_blocks[-1]

    def view(self, address: int, num_bytes: int) -> Bytes:
        """The bytes at an address; HostError unless one block holds them all."""
        self.check_open()
        for base, block in self.blocks.items():
            if base <= address and address + num_bytes <= base + len(block):
                return block[address - base : address - base + num_bytes]
        raise HostError(f"no block holds {num_bytes} bytes at {address:#x}")

    def push(self, issue: Issue) -> None:
        self.check_open()
        if self.recording is None:
            self.queue.append(issue())
        else:
            self.recording.work.append(issue)

    def upload(self, target: int, source: Bytes) -> None:
        self._check_pinned(source)
        region = self.view(target, source.nbytes)

        def issue() -> Callable[[], None]:
            before = source.copy()

            def work() -> None:
                if not np.array_equal(source, before):
                    raise HostError("what is uploaded changed before the stream was waited for")
                region[:] = source
                self.note_upload(target, source.nbytes)

            return work

        self.push(issue)

    def download(self, target: Bytes, source: int) -> None:
        self._check_pinned(target)
        region = self.view(source, target.nbytes)

        def issue() -> Callable[[], None]:
            target[:] = POISON
            self.downloaded_bytes.append(target.nbytes)
            return lambda: target.__setitem__(slice(None), region)

        self.push(issue)

    def copy_rows(self, target: int, source: int, row_bytes: int, pitch_bytes: int, num_rows: int) -> None:
        if row_bytes > pitch_bytes:
            raise HostError(f"rows of {row_bytes} bytes do not fit a pitch of {pitch_bytes}")
        if abs(target - source) < pitch_bytes * num_rows:
            raise HostError("rows are copied over themselves")
        num_bytes = pitch_bytes * (num_rows - 1) + row_bytes  # nothing after the last row is touched
        into, out_of = (
            as_strided(self.view(address, num_bytes), (num_rows, row_bytes), (pitch_bytes, 1))
            for address in (target, source)
        )
        self.push(lambda: lambda: into.__setitem__(slice(None), out_of))

    def widen(self, target: int, source: int, count: int) -> None:
        into, out_of = self.view(target, 8 * count).view(np.int64), self.view(source, 4 * count).view(np.int32)

        def work() -> None:
            if (out_of < 0).any() or (into < 0).any() or (into >= 2**32).any():
                raise HostError("a number that is widened, or stood there, is negative or has a high half")
            into[:] = out_of
            self.note_upload(target, 8 * count)

        self.push(lambda: work)

    def mark(self) -> HostMark:
        self.check_usable("a mark was made")
        self.num_marks += 1
        return HostMark(self, self.num_marks - 1)

    def record(self, work: Callable[[], None]) -> HostRecording:
        self.check_usable("a recording was begun")
        recording = self.recording = HostRecording(self)
        try:
            work()
        except DeviceError as error:
            recording.close()
            raise RecordingRefused(str(error)) from error
        finally:
            self.recording = None
        if self.refuses_recordings:
            recording.close()
            raise RecordingRefused("CUDA failed recording a step: cudaErrorStreamCaptureUnsupported")
        self.recordings.append(recording)
        return recording

    def synchronize(self) -> None:
        self.check_usable("the stream was waited for")
        self.order.append("wait")
        pending, self.queue = self.queue, []
        for work in pending:
            work()

    def run_until(self, passed: Callable[[], bool]) -> None:
        """What the stream holds, in order, up to a mark."""
        while self.queue and not passed():
            self.queue.pop(0)()

    def note_upload(self, address: int, num_bytes: int) -> None:
        """What lies there is new to whoever reads it."""
        self.fresh[address, address + num_bytes] = set()

    def read_inputs(self, spans: dict[str, Span]) -> None:
        """A graph reads its small inputs; HostError unless each was uploaded since it was last read."""
        for name, (begin, end) in spans.items():
            uploads = [read for (low, high), read in self.fresh.items() if low <= begin and end <= high]
            if all(name in read for read in uploads):
                raise HostError(f"{name} was read again without an upload")
            for read in uploads:
                read.add(name)

    def close(self) -> None:
        self.check_usable("the device was closed")
        if self.queue:
            raise HostError("the device was closed with work in the stream")
        if len(self.holders):
            raise HostError("the device was closed before the contexts and bindings that point into its memory")
        self.closed = True
        self.blocks.clear()

    def check_open(self) -> None:
        if self.closed:
            raise HostError("memory was used after the device was closed")
        if threading.get_ident() != self.thread:
            raise HostError("the device was used on another thread than the one that made it")

    def check_usable(self, what: str) -> None:
        self.check_open()
        if self.recording is not None:
            raise HostError(f"{what} while a step was recorded, which CUDA refuses")

    def _check_pinned(self, memory: Bytes) -> None:
        begin, end = memory.ctypes.data, memory.ctypes.data + memory.nbytes
        for block in self.pinned_blocks:
            if block.ctypes.data <= begin and end <= block.ctypes.data + block.nbytes:
                return
        raise HostError("a copy's host memory is not pinned: a recorded step would read it after it is gone")


@dataclass(eq=False)
class HostMark:
    """A place in the stream; a wait for one that was never set is an error, since CUDA would not wait at all."""

    device: HostDevice
    number: int
    num_set: int = 0
    num_passed: int = 0

    def set(self) -> None:
        self.device.check_usable("a mark was set")
        self.num_set += 1
        number = self.num_set
        self.device.order.append(f"mark {self.number}")
        self.device.queue.append(lambda: setattr(self, "num_passed", number))

    def wait(self) -> None:
        self.device.check_usable("a mark was waited for")
        if not self.num_set:
            raise HostError("a mark was waited for that was never set")
        self.device.order.append(f"wait {self.number}")
        self.device.run_until(lambda: self.num_passed == self.num_set)


@dataclass(eq=False)
class HostRecording:
    device: HostDevice
    work: list[Issue] = field(default_factory=list)
    closed: bool = False
    was_launched: bool = False

    def close(self) -> None:
        if self.device.queue and self.was_launched and not self.closed:
            raise HostError("a recording was closed with work in the stream")
        self.closed = True
        self.work.clear()

    def launch(self) -> None:
        if self.closed:
            raise HostError("a recording was launched after it was closed")
        self.device.launches += 1
        self.was_launched = True
        for issue in self.work:
            self.device.push(issue)
