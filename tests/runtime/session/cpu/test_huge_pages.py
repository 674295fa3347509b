"""Which memory is put on huge pages, by hand; and that the kernel really does it, where it may."""

from __future__ import annotations

import ctypes
import mmap
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from runtime.session.cpu.huge_pages import anonymous_ranges, huge_pages_for_new_memory, is_allowed, whole_pages, without

MIB = 2**20
MAPS = """\
55d0c0000000-55d0c0400000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000800000 rw-p 00000000 00:00 0 
7f0000800000-7f0000801000 ---p 00000000 00:00 0 
7f0001000000-7f0002000000 rw-p 00000000 fe:00 77                         /some file (deleted)
7f0003000000-7f0004000000 r--p 00000000 00:00 0 
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]
"""  # noqa: W291 - as the kernel prints it


def test_only_writable_memory_of_no_file_counts() -> None:
    assert anonymous_ranges(MAPS) == [(0x55D0C0000000, 0x55D0C0400000), (0x7F0000000000, 0x7F0000800000)]


@pytest.mark.parametrize(
    ("ranges", "others", "expected"),
    [
        ([(0, 10)], [], [(0, 10)]),
        ([(0, 10)], [(0, 10)], []),
        ([(0, 10)], [(2, 4), (6, 8)], [(0, 2), (4, 6), (8, 10)]),
        ([(5, 10), (20, 30)], [(0, 7), (25, 40)], [(7, 10), (20, 25)]),
        ([(5, 10)], [(0, 20)], []),
    ],
)
def test_what_was_there_before_is_left_alone(
    ranges: list[tuple[int, int]], others: list[tuple[int, int]], expected: list[tuple[int, int]]
) -> None:
    assert without(ranges, others) == expected


def test_only_whole_pages_are_taken() -> None:
    ranges = [(1, 2 * MIB - 1), (1, 4 * MIB), (2 * MIB, 7 * MIB)]
    assert whole_pages(ranges) == [(2 * MIB, 4 * MIB), (2 * MIB, 6 * MIB)]


@pytest.mark.parametrize(("text", "expected"), [("always [madvise] never", True), ("always madvise [never]", False)])
def test_the_administrators_word_counts(text: str, expected: bool, tmp_path: Path) -> None:
    policy = tmp_path / "enabled"
    assert not is_allowed(policy)  # no such file: not Linux, or built without
    policy.write_text(text, encoding="ascii")
    assert is_allowed(policy) is expected


def test_new_memory_is_on_huge_pages() -> None:
    if not is_allowed(Path("/sys/kernel/mm/transparent_hugepage/enabled")):
        pytest.skip("this machine has no huge pages for programs that ask")
    size = 16 * MIB
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    old = mmap.mmap(-1, size, flags=flags)
    with huge_pages_for_new_memory():
        new = mmap.mmap(-1, size, flags=flags)
        for memory in (old, new):
            memory[:] = b"\x01" * size
    assert new[:] == b"\x01" * size
    assert _huge_bytes(ctypes.addressof(ctypes.c_char.from_buffer(old))) == 0
    middle = ctypes.addressof(ctypes.c_char.from_buffer(new)) + size // 2
    assert _huge_bytes(middle) >= size - 4 * MIB  # where it begins decides about its ends


_MATRICES = """
import ctypes
from runtime.session.cpu.huge_pages import huge_pages_for_new_memory

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
with huge_pages_for_new_memory():
    print(*(libc.malloc(1_700_000) for _ in range(20)))
"""


def test_matrices_of_a_few_mib_lie_side_by_side() -> None:
    if not is_allowed(Path("/sys/kernel/mm/transparent_hugepage/enabled")):
        pytest.skip("this machine has no huge pages for programs that ask")
    if not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        pytest.skip("not glibc")
    printed = subprocess.run([sys.executable, "-c", _MATRICES], capture_output=True, text=True, check=True).stdout
    distances = [high - low for low, high in pairwise(sorted(map(int, printed.split())))]
    assert sorted(distances)[:-1] == [1_700_016] * 18  # a mapping each would be whole pages; one may fill a free block


def _huge_bytes(address: int) -> int:
    """Bytes on huge pages of the mapping that holds ``address``."""
    smaps = Path("/proc/self/smaps").read_text(encoding="ascii", errors="replace")
    found = re.finditer(r"^([0-9a-f]+)-([0-9a-f]+) .*?^AnonHugePages: +(\d+) kB", smaps, re.MULTILINE | re.DOTALL)
    return next(int(kib) * 1024 for low, high, kib in (m.groups() for m in found) if _holds(low, high, address))


def _holds(low: str, high: str, address: int) -> bool:
    return int(low, 16) <= address < int(high, 16)
