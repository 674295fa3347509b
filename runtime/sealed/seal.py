"""Takes from a process whatever its work does not need: memory, files, children, and most system calls.

Resource limits hold everywhere on POSIX. On Linux the process also dies with its parent, can gain no privileges, and a
filter answers every system call with EPERM but those that a running interpreter makes (seccomp, ``man 2 seccomp``).
Knows no kind of work.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import sys

# <linux/prctl.h>, <linux/seccomp.h>, <linux/audit.h>
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
_RET_KILL_PROCESS, _RET_ERRNO, _RET_ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# <linux/filter.h>: load a word of seccomp_data, jump if equal, return
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER_OFFSET, _ARCH_OFFSET = 0, 4

# System calls of an interpreter that reads, computes, allocates, writes and ends: name -> (x86_64, aarch64).
_CALLS = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "exit": (60, 93),
    "sigaltstack": (131, 132),
    "futex": (202, 98),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "exit_group": (231, 94),
    "getrandom": (318, 278),
}


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction)))


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when the thread that started it ends; end now if it already has."""
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        raise SystemExit(1)


def seal(memory_bytes: int) -> str | None:
    """Give up all that is not needed, for good. Returns why the system call filter is not in force, or None.

    ``memory_bytes`` bounds the address space as a whole. Descriptors 0 to 2 stay; no further one can be opened.
    """
    limits = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 3,
        resource.RLIMIT_NPROC: 0,
    }
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))
    machine = platform.machine()
    if sys.platform != "linux" or machine not in _AUDIT_ARCH:
        return f"there is none for {sys.platform} on {machine}"
    try:
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _filter_calls(machine)
    except OSError as error:
        return f"the kernel refuses it ({error.strerror})"
    return None


def _filter_calls(machine: str) -> None:
    column = tuple(_AUDIT_ARCH).index(machine)
    numbers = [both[column] for both in _CALLS.values()]
    # Another architecture's calls have other numbers: such a call ends the process.
    program = [
        (_LOAD, 0, 0, _ARCH_OFFSET),
        (_JUMP_IF_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _RET_KILL_PROCESS),
    ]
    program.append((_LOAD, 0, 0, _NUMBER_OFFSET))
    # A match jumps over the remaining comparisons and the refusal.
    program += [(_JUMP_IF_EQUAL, len(numbers) - at, 0, number) for at, number in enumerate(numbers)]
    program += [(_RETURN, 0, 0, _RET_ERRNO | errno.EPERM), (_RETURN, 0, 0, _RET_ALLOW)]
    instructions = (_Instruction * len(program))(*(_Instruction(*words) for words in program))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(_Program(len(program), instructions)))


def _prctl(option: int, argument: int, further: int = 0) -> None:
    call = ctypes.CDLL(None, use_errno=True).prctl
    call.argtypes = [ctypes.c_int, *(ctypes.c_ulong,) * 4]
    if call(option, argument, further, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
