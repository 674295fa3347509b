"""The failures that measuring expects. Every text is one line: what was given, what is allowed, what to do."""

from __future__ import annotations

from pathlib import Path

from runtime.errors import PowertrainError


class BenchError(PowertrainError):
    """A measurement cannot be made as asked: wrong flags, unreachable endpoint, unreadable file."""


class StreamError(PowertrainError):
    """One request went wrong on the wire. ``kind`` is a short stable label for counting, such as ``http_429``."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def unreadable(path: Path, error: OSError) -> BenchError:
    """A result's file cannot be read: why, and for a folder, which commands take as ``--output``, what to name."""
    hint = ", a folder; name the file in it that the run wrote" if isinstance(error, IsADirectoryError) else ""
    return BenchError(f"cannot read {path.name}{hint or f': {error.strerror}'}")
