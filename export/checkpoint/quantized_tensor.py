"""QuantizedTensor: a matrix whose checkpoint holds it in the canonical quantized form already.

Its codes and scales go into a graph as they are, unless a plan asks for another format; to everybody else it is a
LazyTensor of the values that they stand for. Knows no file format and no graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.lazy_tensor import F32, LazyTensor, concat_rows
from export.checkpoint.precision import PRECISE, WeightFormat, planned_name
from export.checkpoint.precision_policy import kept_formats
from export.checkpoint.quantize import I8, dequantize_rows
from export.checkpoint.spec import weight_shapes
from export.errors import UnsupportedError

Quantized = tuple[I8, npt.NDArray[Any]]
"""Codes int8 [rows, K] and positive scales [rows, K / block]."""


@dataclass(frozen=True, slots=True)
class QuantizedTensor(LazyTensor):
    """``read_codes(start, stop)`` returns those rows' codes and float32 scales in ``format``."""

    format: WeightFormat
    read_codes: Callable[[int, int], tuple[I8, F32]]

    def slice_rows(self, first: int, count: int) -> QuantizedTensor:
        """Rows [first, first + count). Raises SourceError if the tensor has fewer."""
        self.check_rows(first + count)
        read = self.read_codes
        return quantized_tensor(
            self.name, (count, *self.shape[1:]), self.format, lambda start, stop: read(first + start, first + stop)
        )


def quantized_tensor(
    name: str, shape: tuple[int, ...], form: WeightFormat, read_codes: Callable[[int, int], tuple[I8, F32]]
) -> QuantizedTensor:
    """A matrix [N, K] from a reader of codes [rows, K] and scales [rows, K / block]."""
    return QuantizedTensor(name, shape, lambda start, stop: dequantize_rows(*read_codes(start, stop)), form, read_codes)


def concat_weights(name: str, parts: Sequence[LazyTensor]) -> LazyTensor:
    """The parts below each other; quantized if all are, in one format."""
    quantized = [part for part in parts if isinstance(part, QuantizedTensor)]
    if len(quantized) != len(parts) or len({part.format for part in quantized}) != 1:
        return concat_rows(name, parts)
    begins = np.cumsum([0, *(part.shape[0] for part in parts)]).tolist()

    def read_codes(start: int, stop: int) -> tuple[I8, F32]:
        ranges = (
            (part, max(start, begin) - begin, min(stop, begin + part.shape[0]) - begin)
            for part, begin in zip(quantized, begins, strict=False)
        )
        pieces = [part.read_codes(low, high) for part, low, high in ranges if low < high]
        return np.concatenate([codes for codes, _ in pieces]), np.concatenate([scales for _, scales in pieces])

    return quantized_tensor(name, (begins[-1], *parts[0].shape[1:]), quantized[0].format, read_codes)


def quantized_bands(
    weight: LazyTensor, chosen: WeightFormat, dtype: npt.DTypeLike, quantize: Callable[[F32], Quantized]
) -> Iterator[Quantized]:
    """All rows in ``chosen`` format, band by band: as the checkpoint has them if that is its format, else rounded.

    Raises UnsupportedError if ``dtype``, which the graph stores scales in, cannot hold the checkpoint's exactly.
    """
    if not isinstance(weight, QuantizedTensor) or weight.format != chosen:
        yield from (quantize(band) for band in weight.bands())
        return
    for start, stop in weight.ranges():
        codes, scales = weight.read_codes(start, stop)
        with np.errstate(over="ignore"):
            stored = scales.astype(dtype)
        if not np.array_equal(stored.astype(np.float32), scales):
            raise UnsupportedError(
                f"{weight.name}: the checkpoint's scales have no exact {np.dtype(dtype).name} form; "
                "choose --precision int8, int4, fp32 or fp16"
            )
        yield codes, stored


def stored_formats(checkpoint: Checkpoint) -> dict[str, WeightFormat]:
    """Plan's name -> format of every matrix that the checkpoint holds quantized.

    Raises UnsupportedError where those cannot be kept, see ``kept_formats``.
    """
    found: dict[str, set[WeightFormat]] = {}
    for name, shape in weight_shapes(checkpoint.spec).items():
        if len(shape) == 2:
            tensor = checkpoint.tensor(name)
            form = tensor.format if isinstance(tensor, QuantizedTensor) else PRECISE
            found.setdefault(planned_name(name), set()).add(form)
    return kept_formats(found, checkpoint.spec)
