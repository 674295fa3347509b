"""Tensors inside safetensors files as they are stored, read a piece at a time. Knows no names and no meaning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from export.errors import SourceError

FLOAT_KINDS = frozenset({"F64", "F32", "F16", "BF16"})


@dataclass(frozen=True, slots=True)
class StoredArray:
    """A tensor by key: ``kind`` is its type as the format names it (``F16``, ``I32``); ``read(slice, ...)`` a part."""

    key: str
    shape: tuple[int, ...]
    kind: str
    read: Callable[..., npt.NDArray[Any]]


def open_file(path: Path) -> Any:  # noqa: ANN401 - the library's handle has no public type
    """The library's handle, to be used in ``with``. Raises SourceError if the file is missing or damaged."""
    try:
        return safe_open(path, framework="np")
    except FileNotFoundError as error:
        raise SourceError(f"{path.name} is missing in {path.parent}; the checkpoint is incomplete") from error
    except (SafetensorError, OSError) as error:
        raise SourceError(f"{path.name} is not a usable safetensors file ({error}); fetch it again") from error


def stored_array(path: Path, key: str) -> StoredArray:
    """The tensor ``key`` of a file that holds it."""
    with open_file(path) as file:
        part = file.get_slice(key)
        shape, kind = tuple(part.get_shape()), part.get_dtype()

    def read(*index: slice) -> npt.NDArray[Any]:
        # Opened per read: a file kept open stays mapped, and a build's peak memory would be the whole checkpoint.
        with open_file(path) as file:
            return np.asarray(file.get_slice(key)[index])

    return StoredArray(key, shape, kind, read)
