"""Calls into llguidance, whose panics arrive as an exception of Python's that is no Exception.

Owns the translation of a panic into ConstraintFailed. Knows no grammar and no mask.
"""

from __future__ import annotations

from types import TracebackType

from runtime.errors import ConstraintFailed


class LibraryCall:
    """A context in which a panic of the library is a ConstraintFailed; all else passes. Holds nothing, so share one.

    A class rather than ``except``: pyo3's PanicException derives from BaseException and cannot be imported.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and kind.__name__ == "PanicException":
            raise ConstraintFailed("the library that computes masks failed; this answer cannot go on") from error


LIBRARY_CALL = LibraryCall()
