"""What passes between a server and its sealed processes: a length of four bytes, big-endian, and that many bytes.

Knows no process; what the bytes mean is their two ends' affair.
"""

from __future__ import annotations

import struct

import msgspec

HEADER_BYTES = 4
MAX_FRAME_BYTES = 256 * 1024 * 1024
"""Longer than any job or answer within the limits; a longer announcement comes from a process not to be trusted."""


class Hello(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A process's first frame. ``unsealed`` says why the system call filter is not in force, if it is not."""

    unsealed: str | None = None


def framed(body: bytes) -> bytes:
    """One frame. Raises OverflowError for a body of 4 GiB or more."""
    try:
        return struct.pack(">I", len(body)) + body
    except struct.error as error:
        raise OverflowError(f"{len(body)} bytes do not fit a frame") from error


def body_bytes(header: bytes) -> int:
    """How many bytes follow a frame's header."""
    return int(struct.unpack(">I", header)[0])
