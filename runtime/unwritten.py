"""A write that failed -> what a person is told: why, how much is free there, what to do. Knows no file's meaning."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

_FULL = {errno.ENOSPC, errno.EDQUOT}


def why_unwritten(error: OSError, path: Path) -> str:
    """``reason; what to do`` for the end of a line that names ``path``, a file or a folder, as what was to be written.

    A full disk's reason says how much is free; an error without a number (of several, as ``shutil`` has them) is that
    of a full disk.
    """
    if error.errno is None:
        return "not every file could be copied; free some space or choose another folder"
    reason = os.strerror(error.errno)
    if error.errno in _FULL:
        return f"{reason} ({_free_text(path)}); free some space or choose another folder"
    if error.errno == errno.EFBIG:
        return f"{reason}; raise the limit on the size of files (ulimit -f)"
    return f"{reason}; choose another folder"


def size_text(num_bytes: int) -> str:
    """A size for a person, in KiB below 10 MiB and in MiB from there on."""
    return f"{num_bytes / 2**10:,.0f} KiB" if num_bytes < 10 * 2**20 else f"{num_bytes / 2**20:,.0f} MiB"


def _free_text(path: Path) -> str:
    folder = next((one for one in (path, *path.absolute().parents) if one.is_dir()), Path("/"))
    return f"{size_text(shutil.disk_usage(folder).free)} are free there"
