"""The device seam: what the engine asks of whatever runs the graph.

A session owns a KV cache of ``num_slots`` slots, allocated once, and knows nothing of requests, rules or text. It takes
rows with the rules by which their tokens are to be chosen, and gives tokens: ``decode_tokens`` for any set of slots,
``prefill_token`` for the end of a prompt. What it could not choose is the host's to draw, from logits that are asked
for row by row and come from wherever they lie; a session that chooses nothing (``SessionInfo.selects``) is asked for
all. ``prefill`` gives whole rows of logits: to prompts that are scored, drafts that are checked, reports.

Axes are those of ``runtime.package.graph_io`` and ``runtime.package.selection_io``.
A row's logits depend on that row's tokens alone: not on its slot, its batch, or how its prompt was cut into chunks
of two or more tokens. A session whose backend cannot keep that says so in ``SessionInfo.batch_invariant``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard, TypeVar

import numpy as np
from numpy.typing import NDArray

from runtime.session.selected import Selected
from runtime.session.selection_table import SelectionTable

Int64Array = NDArray[np.int64]
FloatArray = NDArray[np.float32]

FROM_DEVICE = -1
"""In the place of a token that nobody but the session knows yet (``AheadSession``)."""

HostDraw = Callable[[FloatArray], list[int]]
"""Draws a token for each row of logits [B, V], which are scratch afterwards; any token of the vocabulary for a row that
has none. Called once, on the thread that computed the logits. Raises nothing."""

Rules_contra = TypeVar("Rules_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What a session can hold and promise. ``max_model_len`` is a slot's capacity in tokens.

    ``selects``: it chooses tokens itself, by the rules that it is given. What a decode call covers beside the rows that
    it was asked for costs time, so whoever places sequences keeps it small: ``decode_buckets`` are the numbers of slots
    from the first one on that a call can cover, ascending, the last of them all; empty where a call covers the slots
    from the lowest row to the highest, or, with ``any_slots``, the rows alone.
    ``prefill_tokens`` is how many tokens of prompts a step should compute while others decode, ``idle_prefill_tokens``
    while nobody does: as many as keep the backend busy without keeping running streams waiting for long. So is
    ``copy_bytes``, of cache rows that a step may copy while others decode. ``runs_ahead``: it is an ``AheadSession``.
    """

    backend: str
    num_slots: int
    max_model_len: int
    vocab_size: int
    kv_bytes_per_token: int
    batch_invariant: bool
    selects: bool = False
    decode_buckets: tuple[int, ...] = ()
    any_slots: bool = False
    prefill_tokens: int = 128
    idle_prefill_tokens: int = 256
    copy_bytes: int = 32 * 2**20
    runs_ahead: bool = False


class Session(Protocol):
    """Runs the model over slots. Used by one thread only; all that is returned is valid until the next call.

    Calls other than ``close`` raise DeviceError or MemoryError when the backend failed; later calls may succeed.
    DeviceLost says that none will.
    """

    @property
    def info(self) -> SessionInfo:
        """Fixed for the session's life."""
        ...

    @property
    def run_ns(self) -> int:
        """Nanoseconds spent inside the backend since the session was made."""
        ...

    def decode_tokens(
        self, slots: Int64Array, token_ids: Int64Array, positions: Int64Array, selection: SelectionTable | None = None
    ) -> Selected:
        """One token for each of ``slots`` [B], distinct and ascending: ``token_ids`` [B] at ``positions`` [B].

        The next tokens are chosen by the slots' rows of ``selection``; None where all are the host's to draw.
        Later rows of the slots become void; no other slot's rows change as far as they were written before.
        """
        ...

    def prefill_token(
        self, slot: int, token_ids: Int64Array, start: int, selection: SelectionTable | None = None
    ) -> Selected:
        """Append ``token_ids`` [T] as ``prefill`` does, and choose the one token that comes next."""
        ...

    def prefill(self, slot: int, token_ids: Int64Array, start: int, num_logits: int) -> FloatArray:
        """Append ``token_ids`` [T] to a slot that holds ``start`` tokens; later rows of the slot become void.

        Returns the logits of the last ``num_logits`` tokens, float32 [num_logits, V]; 0 skips the head.
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


class AheadSession(Session, Protocol[Rules_contra]):
    """A session that can be given a decode call while the one before it runs.

    At most two calls are launched and not waited for. While one is, nothing else is asked of the session.
    ``Rules_contra`` say how tokens are chosen: a SelectionTable, or None to choose none, where the session ``selects``,
    and a HostDraw where it does not.
    """

    def launch(self, slots: Int64Array, token_ids: Int64Array, positions: Int64Array, selection: Rules_contra) -> None:
        """Begin ``decode_tokens`` and return; ``wait`` gives its answer.

        FROM_DEVICE in ``token_ids`` is the token that the call launched before chooses for the slot, settled or not.
        When it raises, nothing was launched, and calls before it are not lost.
        """
        ...

    def wait(self) -> Selected:
        """The answer of the call launched first of those that were not waited for; valid until the next wait.

        Its logits stay where they are until the second launch from now on; after a HostDraw there are none any more,
        and the tokens are what that returned. When it raises, the call is over.
        """
        ...


def decode_logits(session: Session, first_slot: int, token_ids: Int64Array, positions: Int64Array) -> FloatArray:
    """``Session.decode_tokens`` of the slots ``[first_slot, first_slot + B)``, for their logits: float32 [B, V].

    Writable by the caller, and valid until the session's next call. For whoever compares sessions; no token is chosen.
    """
    slots = np.arange(first_slot, first_slot + len(token_ids))
    return session.decode_tokens(slots, token_ids, positions).logits(range(len(slots)))


def runs_ahead(session: Session) -> TypeGuard[AheadSession[Any]]:
    """Whether decode calls of the session can be launched ahead."""
    return session.info.runs_ahead
