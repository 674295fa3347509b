"""The memory of HostCuda: blocks of device and of pinned memory in host memory, and who uses which span of them."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from runtime.session.device import Bytes

POISON = 0xFF
"""What memory holds that nobody has written, and host memory that is still to be written."""
ALIGNMENT = 256


class HostCudaError(AssertionError):
    """What CUDA would have answered with a wrong number, a crash, or nothing at all."""


@dataclass(eq=False)
class Block:
    """One allocation. ``kind`` is device or pinned; ``raw`` keeps the memory, also after it was freed."""

    base: int
    num_bytes: int
    kind: str
    ordinal: int
    raw: Bytes
    is_freed: bool = False

    def holds(self, address: int, num_bytes: int = 1) -> bool:
        return self.base <= address and address + num_bytes <= self.base + self.num_bytes

    def bytes_at(self, address: int, num_bytes: int) -> Bytes:
        begin = address - int(self.raw.ctypes.data)
        return self.raw[begin : begin + num_bytes]


@dataclass(frozen=True)
class Area:
    """``height`` rows of ``width`` bytes that lie ``pitch`` apart, all in one block."""

    block: Block
    address: int
    pitch: int
    width: int
    height: int

    @property
    def num_bytes(self) -> int:
        """From the first byte to the last one; nothing after the last row is touched."""
        return self.pitch * (self.height - 1) + self.width

    @property
    def rows(self) -> NDArray[np.uint8]:
        return as_strided(self.block.bytes_at(self.address, self.num_bytes), (self.height, self.width), (self.pitch, 1))

    def overlaps(self, other: Area) -> bool:
        return self.address < other.address + other.num_bytes and other.address < self.address + self.num_bytes


@dataclass(eq=False)
class HostMemory:
    """All blocks of all GPUs, by address, and those that were freed."""

    blocks: dict[int, Block] = field(default_factory=dict)
    freed: list[Block] = field(default_factory=list)

    def allocate(self, num_bytes: int, kind: str, ordinal: int) -> Block:
        """Memory that holds POISON: CUDA clears nothing."""
        raw = np.full(num_bytes + 2 * ALIGNMENT, POISON, np.uint8)
        base = int(raw.ctypes.data) + -raw.ctypes.data % ALIGNMENT
        self.blocks[base] = Block(base, num_bytes, kind, ordinal, raw)
        return self.blocks[base]

    def block_to_free(self, address: int, kind: str) -> Block:
        block = self.blocks.get(address)
        if block is None or block.kind != kind:
            what = "twice" if any(one.base == address for one in self.freed) else "that is none of its own"
            raise HostCudaError(f"{kind} memory was freed {what}: {address:#x}")
        return block

    def free(self, block: Block) -> None:
        block.is_freed = True
        self.freed.append(self.blocks.pop(block.base))

    def used_bytes(self, ordinal: int) -> int:
        ours = (block for block in self.blocks.values() if block.kind == "device" and block.ordinal == ordinal)
        return sum(block.num_bytes for block in ours)

    def count(self, kind: str) -> int:
        return sum(block.kind == kind for block in self.blocks.values())

    def is_known(self, address: int) -> bool:
        return any(block.holds(address) for block in self.blocks.values())

    def area(self, address: int, kind: str, *, width: int, pitch: int = 0, height: int = 1) -> Area:
        """Live memory of a kind; HostCudaError says what is there instead."""
        num_bytes = pitch * (height - 1) + width
        for block in self.blocks.values():
            if block.holds(address, num_bytes):
                if block.kind != kind:
                    raise HostCudaError(f"{kind} memory is wanted, {address:#x} is {block.kind}")
                return Area(block, address, pitch, width, height)
        for block in self.blocks.values():
            if block.holds(address):
                left = block.base + block.num_bytes - address
                raise HostCudaError(f"{num_bytes} bytes at {address:#x} leave their block, which has {left} more")
        if any(block.holds(address) for block in self.freed):
            raise HostCudaError(f"memory was used after it was freed: {address:#x}")
        raise HostCudaError(f"no {kind} memory is at {address:#x}: it is pageable, or nobody's")


def as_address(given: int) -> int:
    """As the real binding takes one: a number; other objects would be taken for buffers."""
    return operator.index(given)


def as_size(given: int) -> int:
    if operator.index(given) < 0:
        raise OverflowError("can't convert negative value to size_t")
    return given
