"""Where a call's small inputs are written and its logits are read: pinned host memory, and as much on the device.

Addresses are fixed for the session's life, so that recorded steps stay valid. Knows no graph and no cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.package import graph_io
from runtime.session.device import ALIGNMENT_BYTES, DeviceMemory
from runtime.session.gpu.runner import POSITION_DTYPES
from runtime.session.session import FloatArray, Int64Array

_FLOAT32_BYTES = 4


def logits_bytes(num_slots: int, max_logits: int, vocab_size: int, num_lanes: int = 1) -> int:
    """Device memory that the logits of a prefill call and of the decode calls that are on their way at once take."""
    return (num_lanes * num_slots + max_logits) * vocab_size * _FLOAT32_BYTES


class Staging:
    """Integer inputs side by side, in pinned and in device memory, and a logits buffer in both.

    With ``ids_address`` the ids lie there, and somebody else brings them.
    """

    def __init__(
        self,
        device: DeviceMemory,
        position_input: str,
        *,
        num_tokens: int,
        num_rows: int,
        num_logits: int,
        vocab_size: int,
        ids_address: int | None = None,
    ) -> None:
        self._device = device
        self._position_input = position_input
        sizes: dict[str, tuple[int, np.dtype[Any]]] = {
            graph_io.INPUT_IDS: (num_tokens, np.dtype(np.int64)),
            position_input: (num_rows, POSITION_DTYPES[position_input]),
            graph_io.LOGITS_INDICES: (num_logits, np.dtype(np.int64)),
        }
        if ids_address is not None:
            del sizes[graph_io.INPUT_IDS]
        offsets, end = {}, 0
        for name, (count, dtype) in sizes.items():
            offsets[name] = end
            end += -(-count * dtype.itemsize // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        self._host = device.pinned(end)
        base = device.allocate(end)
        self.inputs: dict[str, NDArray[np.signedinteger[Any]]] = {
            name: self._host[offset:][: sizes[name][0] * sizes[name][1].itemsize].view(sizes[name][1])
            for name, offset in offsets.items()
        }
        self._base = base
        self._logits_bytes = device.pinned(num_logits * vocab_size * _FLOAT32_BYTES)
        self.logits: FloatArray = self._logits_bytes.view(np.float32).reshape(num_logits, vocab_size)  # [N, V]
        self._logits_base = device.allocate(self._logits_bytes.nbytes)
        self.addresses = {name: base + offset for name, offset in offsets.items()}
        self.addresses[graph_io.LOGITS] = self._logits_base
        if ids_address is not None:
            self.addresses[graph_io.INPUT_IDS] = ids_address

    def set_positions(self, positions: Int64Array, num_tokens: int) -> None:
        """Place ``num_tokens`` per row from cache rows ``positions``, int64 [B], on."""
        last = num_tokens - 1 if self._position_input == graph_io.SEQLENS_K else 0
        self.inputs[self._position_input][: len(positions)] = positions + last

    def upload(self) -> None:
        """Queue the copy of all inputs to the device."""
        self._device.upload(self._base, self._host)

    def download(self, num_logits: int, first: int = 0) -> None:
        """Queue the copy of so many rows of logits to the same places in host memory."""
        row_bytes = self.logits.shape[1] * _FLOAT32_BYTES
        begin, end = first * row_bytes, (first + num_logits) * row_bytes
        self._device.download(self._logits_bytes[begin:end], self._logits_base + begin)
