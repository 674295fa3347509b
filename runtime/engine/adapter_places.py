"""Tells a session which adapter each running sequence's slot is computed with. Knows no step's plan and no matrices."""

from __future__ import annotations

from collections.abc import Iterable

from runtime.engine.sequence import Sequence
from runtime.session.session import Session
from runtime.session.takes_adapters import TakesAdapters


def place_adapters(session: Session, running: Iterable[Sequence]) -> None:
    """Set every running sequence's adapter in the slot that it is in now: call it after copies, which move sequences.

    Raises ValueError for an adapter where the session takes none: the base's answer in its place would be a lie.
    """
    if isinstance(session, TakesAdapters):
        for sequence in running:
            session.set_adapter(sequence.slot, sequence.request.adapter)
    elif any(sequence.request.adapter is not None for sequence in running):
        raise ValueError("a request has an adapter, and the session takes none")
