"""What a session offers beyond ``Session`` whose graph has room for adapters. Knows no request and no file."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from runtime.adapter import Adapter
from runtime.session.session import Session


@runtime_checkable
class TakesAdapters(Protocol):
    """A session that may compute each slot with an adapter of its own."""

    def set_adapter(self, slot: int, adapter: Adapter | None) -> None:
        """From now on compute the slot's tokens with ``adapter``; the rows that it holds stay as they are.

        Costs nothing where the slot has it already. Raises ValueError for an adapter where the graph takes none.
        """
        ...


def pass_adapter(inner: Session, slot: int, adapter: Adapter | None) -> None:
    """``TakesAdapters.set_adapter`` of a session around another one, which may take none."""
    if isinstance(inner, TakesAdapters):
        inner.set_adapter(slot, adapter)
    elif adapter is not None:
        raise ValueError("the graph has no room for adapters")
