"""The inside of a sealed process: reads jobs from descriptor 0, answers there, ends when it is closed.

The process is started by ``process`` with no environment and no file. Knows no kind of work.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import msgspec

from runtime.sealed.frame import HEADER_BYTES, Hello, body_bytes, framed
from runtime.sealed.seal import die_with_parent, seal

_CHANNEL = 0


def serve(parent_pid: int, prepare: Callable[[bytes], tuple[Callable[[bytes], bytes], int]]) -> None:
    """Answer jobs until the server closes the channel.

    ``prepare`` gets the first frame, loads whatever a job needs (afterwards no file can be opened) and returns what
    answers a job, and how many bytes the process may have, address space as a whole.
    """
    die_with_parent(parent_pid)
    bodies = _frames()
    answer, memory_bytes = prepare(next(bodies))
    # What the interpreter says of its own end helps nobody once it runs other people's programs.
    os.dup2(1, 2)
    _send(framed(msgspec.msgpack.encode(Hello(unsealed=seal(memory_bytes)))))
    for body in bodies:
        _send(framed(answer(body)))


def _frames() -> Iterator[bytes]:
    while len(header := _read(HEADER_BYTES)) == HEADER_BYTES:
        yield _read(body_bytes(header))


def _read(count: int) -> bytes:
    """``count`` bytes, or fewer at the channel's end."""
    parts = []
    while count and (part := os.read(_CHANNEL, min(count, 1 << 20))):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _send(frame: bytes) -> None:
    left = memoryview(frame)
    while left:
        left = left[os.write(_CHANNEL, left) :]
