"""Where a selection head reads its rows' rules and writes what it chose: device memory, and pinned memory beside it.

Addresses are fixed for the session's life, so that recorded steps stay valid. A mask is V / 8 bytes per row, so masks
stay on the device and go up row by row, only for rows that have one or had one. Knows no graph and no cache.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.package import selection_io as io
from runtime.session.device import ALIGNMENT_BYTES, DeviceMemory
from runtime.session.selected import Chosen
from runtime.session.selection_table import SelectionTable

_EVERY_TOKEN = 0xFF


class SelectionStaging:
    """Memory for a head's inputs and outputs of up to ``num_rows`` rows."""

    def __init__(self, device: DeviceMemory, num_rows: int, vocab_size: int) -> None:
        self._device = device
        self._mask_bytes = io.mask_bytes(vocab_size)
        self._host, self._base, self.inputs, inputs = _placed(device, io.RULES, num_rows)
        self._told, self._told_base, told, outputs = _placed(device, io.OUTPUTS, num_rows)
        self._chosen = Chosen(*(told[name] for name in io.OUTPUTS))
        for name, values in self.inputs.items():
            values[...] = io.neutral(name, vocab_size)
        self._masks = device.pinned(num_rows * self._mask_bytes)
        self._masks[:] = _EVERY_TOKEN
        self._masks_base = device.allocate(self._masks.nbytes)
        self._masked: set[int] = set(range(num_rows))  # nothing lies there yet
        self.addresses = {**inputs, **outputs, io.MASK: self._masks_base}

    def load(self, table: SelectionTable, slots: slice, wanted: Iterable[int]) -> None:
        """Take the rules of ``slots`` as rows from 0 on, and the masks of those rows of ``wanted`` that have one."""
        first, count = slots.start, slots.stop - slots.start
        for name, values in self.inputs.items():
            values[:count] = table.columns[name][slots]
        masks = {row: table.masks[first + row] for row in wanted if first + row in table.masks} if table.masks else {}
        for row in [row for row in self._masked if row not in masks and row < count]:
            self._upload_mask(row, None)
        for row, mask in masks.items():
            self._upload_mask(row, mask.view(np.uint8))

    def upload(self) -> None:
        """Queue the copy of all rows' rules to the device; masks are on their way already."""
        self._device.upload(self._base, self._host)

    def download(self) -> None:
        """Queue the copy of what was chosen to host memory."""
        self._device.download(self._told, self._told_base)

    def chosen(self, places: NDArray[np.int64] | slice) -> Chosen:
        """What was chosen for the rows at ``places``, once the download is over."""
        return self._chosen.rows(places)

    def _upload_mask(self, row: int, mask: NDArray[np.uint8] | None) -> None:
        """Queue a row's mask; None is every token."""
        begin = row * self._mask_bytes
        pinned = self._masks[begin : begin + self._mask_bytes]
        pinned[:] = _EVERY_TOKEN if mask is None else 0
        if mask is not None:
            pinned[: len(mask)] = mask[: len(pinned)]
        self._device.upload(self._masks_base + begin, pinned)
        (self._masked.discard if mask is None else self._masked.add)(row)


def _placed(
    device: DeviceMemory, columns: dict[str, tuple[np.dtype[Any], int]], num_rows: int
) -> tuple[NDArray[np.uint8], int, dict[str, NDArray[Any]], dict[str, int]]:
    """Pinned memory and its place on the device, a view of it for each column, and where that lies on the device."""
    offsets, end = {}, 0
    for name, (dtype, width) in columns.items():
        offsets[name] = end
        end += -(-num_rows * width * dtype.itemsize // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    host, base = device.pinned(end), device.allocate(end)
    views = {
        name: host[offsets[name] :][: num_rows * width * dtype.itemsize].view(dtype).reshape(-1, width)
        for name, (dtype, width) in columns.items()
    }
    shaped = {name: view[:, 0] if columns[name][1] == 1 else view for name, view in views.items()}
    return host, base, shaped, {name: base + offset for name, offset in offsets.items()}


def selection_bytes(num_rows: int, vocab_size: int) -> int:
    """Device memory that rules, masks and choices of so many rows take."""
    widths = [dtype.itemsize * width for dtype, width in (*io.RULES.values(), *io.OUTPUTS.values())]
    padded = sum(-(-num_rows * width // ALIGNMENT_BYTES) * ALIGNMENT_BYTES for width in widths)
    return padded + num_rows * io.mask_bytes(vocab_size)
