"""The file of kernels that TensorRT for RTX compiled for a plan, beside the plan: read and replaced whole, bounded.

The library judges what is in it; this module trusts neither its size nor its kind. Knows no TensorRT.
"""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from pathlib import Path

_LOG = logging.getLogger("powertrain.tensorrt")
_SUFFIX = ".kernels"

MAX_BYTES = 512 * 2**20
"""Far above what the kernels of a plan take, and little beside the memory of a machine that serves one."""


class KernelFile:
    """``PLAN.kernels``. What cannot be read or written is told in the log and costs a compilation, nothing else."""

    def __init__(self, plan: Path) -> None:
        self.path = plan.with_name(plan.name + _SUFFIX)

    def read(self) -> bytes:
        """What was kept; empty if there is nothing, or nothing that can be a file of kernels."""
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return b""
        except OSError as error:  # of a link it says that there are too many of them
            _LOG.info("%s is not used: %s", self.path.name, error.strerror)
            return b""
        try:
            status = os.fstat(handle)
            if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES:
                with os.fdopen(handle, "rb", closefd=False) as file:
                    return file.read(MAX_BYTES)
            _LOG.info("%s is not used: it is no file of at most %s bytes", self.path.name, f"{MAX_BYTES:,}")
            return b""
        finally:
            os.close(handle)

    def write(self, compiled: memoryview) -> None:
        """Put ``compiled`` in the file's place at once; a reader sees the old bytes or the new ones."""
        if compiled.nbytes > MAX_BYTES:
            _LOG.info("compiled kernels are not kept: %s bytes are too many", f"{compiled.nbytes:,}")
            return
        partial = None
        try:
            handle, partial = tempfile.mkstemp(suffix=self.path.name, prefix=".", dir=self.path.parent)
            with os.fdopen(handle, "wb") as file:
                os.fchmod(handle, 0o644)  # readable like the package's other files
                file.write(compiled)
            Path(partial).replace(self.path)
            partial = None
        except OSError as error:
            _LOG.info("compiled kernels are not kept: %s (%s)", self.path.name, error.strerror)
        finally:
            if partial is not None:
                Path(partial).unlink(missing_ok=True)
