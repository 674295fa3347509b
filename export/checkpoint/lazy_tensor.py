"""LazyTensor: a weight that is read, as float32, a band of rows at a time.

Checkpoints hand these out, so that neither quantizing nor writing a matrix ever holds it whole. Knows no file format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from export.errors import SourceError

F32 = npt.NDArray[np.float32]

_COLUMNS = 512
BAND_BYTES = 16 * 2**20
"""Size of the float32 pieces that matrices are worked on in."""


@dataclass(frozen=True, slots=True)
class LazyTensor:
    """A vector [n] or matrix [rows, columns]; ``read(start, stop)`` returns those rows as a fresh float32 array."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[int, int], F32]

    def ranges(self) -> Iterator[tuple[int, int]]:
        """(start, stop) of the rows of each band."""
        row_bytes = 4 * (self.shape[1] if len(self.shape) > 1 else 1)
        step = max(1, BAND_BYTES // row_bytes)
        for start in range(0, self.shape[0], step):
            yield start, min(start + step, self.shape[0])

    def bands(self) -> Iterator[F32]:
        """All rows in order, in arrays of at most 16 MiB (or one row). Raises SourceError at a value not finite."""
        for start, stop in self.ranges():
            band = self.read(start, stop)
            if not np.isfinite(band).all():
                raise SourceError(f"tensor {self.name!r} holds NaN or infinite values; the checkpoint is damaged")
            yield band

    def numpy(self) -> F32:
        """The whole tensor, float32 [shape]. Costs its size once."""
        whole = np.empty(self.shape, np.float32)
        start = 0
        for band in self.bands():
            whole[start : start + len(band)] = band
            start += len(band)
        return whole

    def take_rows(self, index: npt.NDArray[np.int64]) -> LazyTensor:
        """The tensor whose row i is row ``index[i]`` of this one; neighbours in ``index`` should be near."""
        read = self.read

        def permuted(start: int, stop: int) -> F32:
            wanted = index[start:stop]
            low = int(wanted.min())
            return read(low, int(wanted.max()) + 1)[wanted - low]

        return LazyTensor(self.name, (len(index), *self.shape[1:]), permuted)

    def slice_rows(self, first: int, count: int) -> LazyTensor:
        """Rows [first, first + count). Raises SourceError if the tensor has fewer."""
        self.check_rows(first + count)
        read = self.read
        return LazyTensor(self.name, (count, *self.shape[1:]), lambda start, stop: read(first + start, first + stop))

    def check_rows(self, wanted: int) -> None:
        """Raise SourceError unless the tensor has ``wanted`` rows."""
        if self.shape[0] < wanted:
            raise SourceError(
                f"tensor {self.name!r} has {self.shape[0]} rows, the configuration implies {wanted}; "
                "the checkpoint contradicts itself"
            )

    def scale_rows(self, factors: F32) -> LazyTensor:
        """Row i times ``factors[i]``, float32 [rows]."""
        read = self.read

        def scaled(start: int, stop: int) -> F32:
            return (read(start, stop).T * factors[start:stop]).T

        return LazyTensor(self.name, self.shape, scaled)

    def map(self, change: Callable[[F32], F32]) -> LazyTensor:
        """The tensor with ``change`` applied to each band of rows; it must act on rows one by one."""
        read = self.read
        return LazyTensor(self.name, self.shape, lambda start, stop: change(read(start, stop)))


def concat_rows(name: str, parts: Sequence[LazyTensor]) -> LazyTensor:
    """The parts below each other."""
    if len(parts) == 1:
        return parts[0]
    ends = np.cumsum([part.shape[0] for part in parts]).tolist()

    def read(start: int, stop: int) -> F32:
        pieces = []
        for part, end in zip(parts, ends, strict=True):
            begin = end - part.shape[0]
            low, high = max(start, begin), min(stop, end)
            if low < high:
                pieces.append(part.read(low - begin, high - begin))
        return np.concatenate(pieces, axis=0)

    return LazyTensor(name, (ends[-1], *parts[0].shape[1:]), read)


def column_bands(matrix: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """The columns of a matrix [N, K] as rows of [K, N], some at a time, for files that want them so."""
    for start in range(0, matrix.shape[1], _COLUMNS):
        yield matrix[:, start : start + _COLUMNS].T
