"""The device seam: what the engine asks of whatever runs the graph.

A session owns a KV cache of ``num_slots`` slots, allocated once, and knows nothing of requests, sampling or text.
Two call shapes only: prefill one slot, decode adjacent slots ``[first, first + B)``. Axes are those of
``runtime.package.graph_io``.
A row's logits depend on that row's tokens alone: not on its slot, its batch, or how its prompt was cut into chunks
of two or more tokens. A session whose backend cannot keep that says so in ``SessionInfo.batch_invariant``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Int64Array = NDArray[np.int64]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What a session can hold and promise. ``max_model_len`` is a slot's capacity in tokens."""

    backend: str
    num_slots: int
    max_model_len: int
    vocab_size: int
    kv_bytes_per_token: int
    batch_invariant: bool


class Session(Protocol):
    """Runs the model over slots. Used by one thread only; every returned array is valid until the next call.

    ``prefill``, ``decode`` and ``copy_slot`` raise DeviceError or MemoryError when the backend failed; later calls may
    succeed. DeviceLost says that none will.
    """

    @property
    def info(self) -> SessionInfo:
        """Fixed for the session's life."""
        ...

    @property
    def run_ns(self) -> int:
        """Nanoseconds spent inside the backend since the session was made."""
        ...

    def prefill(self, slot: int, token_ids: Int64Array, start: int, num_logits: int) -> FloatArray:
        """Append ``token_ids`` [T] to a slot that holds ``start`` tokens; later rows of the slot become void.

        Returns the logits of the last ``num_logits`` tokens, float32 [num_logits, V]; 0 skips the head.
        """
        ...

    def decode(self, first_slot: int, token_ids: Int64Array, positions: Int64Array) -> FloatArray:
        """One token for each of the slots ``[first_slot, first_slot + B)``: ``token_ids`` [B] at ``positions`` [B].

        Returns float32 [B, V], writable by the caller.
        """
        ...

    def copy_slot(self, source: int, target: int, num_tokens: int, start: int = 0) -> None:
        """Copy the cache rows ``start`` to ``num_tokens`` of a slot over another's.

        The target holds rows of the same ``start`` first tokens already.
        """
        ...

    def close(self) -> None:
        """Release the backend and the cache."""
        ...
