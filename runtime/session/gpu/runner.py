"""The seam between a session of fixed slots and what runs its graph: a TensorRT plan, or ONNX Runtime on a GPU.

Owns the description of one call. Knows no library, no staging and no cache beyond its addresses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from runtime.package import graph_io
from runtime.session.gpu.device_arena import DeviceArena

POSITION_DTYPES: dict[str, np.dtype[Any]] = {
    graph_io.WRITE_INDICES: np.dtype(np.int64),
    graph_io.SEQLENS_K: np.dtype(np.int32),
}
"""The inputs that place a row in its cache, one per dialect."""

NUM_LANES = 2
"""Decode calls that are on their way at once where a head chooses tokens: one runs, one waits behind it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a runner can take. ``capacity`` is a slot's fixed length in tokens; ``max_logits`` bounds N of a prefill.

    ``position_input`` names the graph's input that places a row in its cache: ``write_indices`` or ``seqlens_k``.
    ``prefill_buckets`` are the token counts that prefill calls must have, ascending and from 1 on, and
    ``logits_buckets`` their N; empty where every count up to the most is as good. ``num_lanes`` is how many
    decode calls can be on their way at once: 1 where ``enqueue`` returns when a run is over.
    """

    num_slots: int
    capacity: int
    prefill_tokens: int
    max_logits: int
    kv_itemsize: int
    position_input: str = graph_io.WRITE_INDICES
    prefill_buckets: tuple[int, ...] = ()
    logits_buckets: tuple[int, ...] = ()
    num_lanes: int = 1


@dataclass(frozen=True, slots=True)
class Call:
    """One run of the graph: B rows of T tokens with N logits rows, over slots ``[first_slot, first_slot + B)``.

    A decode call begins at the first slot and has one of ``decode_buckets``' numbers of rows.

    ``total_tokens`` bounds the cache rows that a slot holds after the call: exactly in a prefill, by the slot's length
    in a decode call, which is run again at other positions. ``addresses`` maps the inputs in device memory and the
    logits to their addresses, which are the same in every prefill and in every decode call.
    """

    is_decode: bool
    first_slot: int
    num_rows: int
    num_tokens: int
    num_logits: int
    total_tokens: int
    addresses: dict[str, int]


class Run(Protocol):
    """A call made ready: what its inputs hold may differ from run to run, their shapes and addresses do not."""

    @property
    def may_be_recorded(self) -> bool:
        """Whether the device may record what ``enqueue`` queues, and replay it."""
        ...

    def enqueue(self) -> None:
        """Queue one run. Raises PowertrainError when the graph refuses a shape or an address."""
        ...

    def close(self) -> None:
        """Give back what the run holds; it is not queued again, and what was recorded of it is gone by then."""
        ...


class Runner(Protocol):
    """Queues runs of one graph on a device's stream."""

    @property
    def limits(self) -> Limits:
        """Fixed for the runner's life."""
        ...

    def prepare(self, call: Call, arena: DeviceArena) -> Run:
        """Make a call ready. The session keeps one run for each bucket of decode calls of each lane, whose logits lie
        in a place of their own."""
        ...

    def close(self) -> None:
        """Release the graph, after every run made from it was dropped."""
        ...


class Selector(Protocol):
    """Queues runs of a selection head (``runtime.package.selection_io``) on a device's stream."""

    def prepare(self, num_rows: int, addresses: dict[str, int]) -> Run:
        """Make a run ready for rows ``[0, num_rows)`` of logits, inputs and outputs at ``addresses`` in device memory.

        The session keeps one for each bucket of decode calls of each lane, and one of a single row.
        """
        ...

    def close(self) -> None:
        """Release the head, after every run made from it was dropped."""
        ...


def decode_buckets(num_slots: int) -> tuple[int, ...]:
    """Rows of decode calls: powers of two below ``num_slots``, and that."""
    sizes, size = [], 1
    while size < num_slots:
        sizes.append(size)
        size *= 2
    return (*sizes, num_slots)
