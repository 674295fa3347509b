"""One decode call on its way: where its inputs are written and its logits and choices are read, and its recorded steps.

A session that runs ahead has two lanes, and each call takes the other one than the call before it: what one call
uploads, and what it leaves to be read, stays as it is while the next call is queued already. Input ids lie in one place
on the device for all lanes: each call with a head ends by writing the tokens that it chose there, so that the next one
finds them without anybody's help. Knows no runner and no rules.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from runtime.package import graph_io, selection_io
from runtime.session.device import ALIGNMENT_BYTES, Device
from runtime.session.gpu.selection_staging import SelectionStaging
from runtime.session.gpu.staging import Staging
from runtime.session.session import FROM_DEVICE, Int64Array

_ID_BYTES = 8


class TokenIds:
    """The ids of every slot's next token, int64 [num_slots], on the device."""

    def __init__(self, device: Device, num_slots: int) -> None:
        self._device = device
        self._num_slots = num_slots
        self.address = device.allocate(-(-num_slots * _ID_BYTES // ALIGNMENT_BYTES) * ALIGNMENT_BYTES)

    def upload(self, host: np.ndarray[Any, np.dtype[np.uint8]], first: int, count: int) -> None:
        """Queue the copy of the ids of ``count`` slots from a lane's pinned memory of all of them."""
        begin, end = first * _ID_BYTES, (first + count) * _ID_BYTES
        self._device.upload(self.address + begin, host[begin:end])

    def take(self, tokens: int) -> None:
        """Queue the copy of a head's tokens, int32 [num_slots] at an address; no token is negative."""
        self._device.widen(self.address, tokens, self._num_slots)


class DecodeLane:
    """Memory of one call of up to ``num_slots`` rows. ``selection`` is None in a session without a head."""

    def __init__(
        self, device: Device, ids: TokenIds, position_input: str, num_slots: int, vocab_size: int, *, has_head: bool
    ) -> None:
        self._ids = ids
        self._host = device.pinned(num_slots * _ID_BYTES)
        self._host_ids = self._host.view(np.int64)
        self._host_ids[:] = 0  # what no call asks for may hold any token
        self.staging = Staging(
            device,
            position_input,
            num_tokens=num_slots,
            num_rows=num_slots,
            num_logits=num_slots,
            vocab_size=vocab_size,
            ids_address=ids.address,
        )
        self.staging.inputs[graph_io.LOGITS_INDICES][:] = np.arange(num_slots)
        self.selection = SelectionStaging(device, num_slots, vocab_size) if has_head else None
        self.mark = device.mark()

    def upload_ids(self, slots: Int64Array, token_ids: Int64Array, size: int) -> None:
        """Queue the ids of ``slots`` [B] that a host knows, ``token_ids`` [B]; the others are on the device.

        Where none is, all ``size`` rows go up in one piece.
        """
        is_known = token_ids != FROM_DEVICE
        self._host_ids[slots[is_known]] = token_ids[is_known]
        if is_known.all():
            self._ids.upload(self._host, 0, size)
        else:
            for slot in slots[is_known].tolist():
                self._ids.upload(self._host, slot, 1)

    def take_tokens(self) -> None:
        """Queue what makes the tokens that this call chose the next one's ids."""
        if self.selection is not None:
            self._ids.take(self.selection.addresses[selection_io.DRAWN])
