"""One builder per folder at a time, across processes, beside any number of readers; a killed one holds nothing."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from export.errors import ExportError

_ANOTHER = "choose another folder with -o"


@contextmanager
def exclusive_folder(folder: Path, purpose: str, way_out: str = _ANOTHER, *, wait: bool = False) -> Iterator[Path]:
    """``folder``, made empty for this block alone and removed after it; what a killed process left there goes first.

    Where another process holds it, this one waits, or without ``wait`` raises ExportError; so it does if the folder
    cannot be made.
    """
    with exclusive(folder.with_name(folder.name + ".lock"), purpose, way_out, wait=wait):
        try:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        except OSError as error:
            raise _unwritable(folder, error, way_out) from error
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def exclusive(path: Path, purpose: str, way_out: str = _ANOTHER, *, wait: bool = False) -> Iterator[None]:
    """The lock file ``path``, for this block alone. Raises ExportError if it cannot be made.

    Where another process holds it, this one waits, or without ``wait`` raises ExportError.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _acquire(path, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        raise ExportError(f"another powertrain is {purpose} right now; wait for it") from error
    except OSError as error:
        raise _unwritable(path, error, way_out) from error
    with lock:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def shared(path: Path, way_out: str) -> Iterator[None]:
    """The lock file ``path`` beside other readers, for this block; waits for whoever has it alone."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _acquire(path, fcntl.LOCK_SH)
    except OSError as error:
        raise _unwritable(path, error, way_out) from error
    with lock:
        yield


def _unwritable(path: Path, error: OSError, way_out: str) -> ExportError:
    return ExportError(f"{path.parent}: cannot be written to ({error.strerror}); {way_out}")


def _acquire(path: Path, how: int) -> BinaryIO:
    """The locked file at ``path``. Raises BlockingIOError if it is held and ``how`` says not to wait."""
    while True:
        lock = path.open("wb")
        try:
            fcntl.flock(lock, how)
            if path.exists() and os.fstat(lock.fileno()).st_ino == path.stat().st_ino:
                return lock
        except BaseException:
            lock.close()
            raise
        lock.close()  # its holder removed the file between our opening and our locking it
