"""How many bytes of bodies and prompts may be in flight at once, all requests together.

A request holds what it has sent so far, and later what its prompt takes. Large requests may take three quarters of
the budget, so that they cannot shut out small ones. Runs on the event loop's thread only; knows no HTTP.
"""

from __future__ import annotations

from runtime.errors import Overloaded

SMALL_BYTES = 64 * 1024
"""A request of at most this size may use the whole budget."""
_LARGE_SHARE = 0.75


class ByteBudget:
    """``limit_bytes`` for all holds together; ``held_bytes`` are taken now."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.held_bytes = 0

    def hold(self) -> Hold:
        """A new hold of nothing."""
        return Hold(self)

    def resize(self, before: int, after: int) -> None:
        """Exchange ``before`` held bytes for ``after``. Raises Overloaded when the budget has no room for them."""
        held = self.held_bytes - before + after
        share = 1.0 if after <= SMALL_BYTES else _LARGE_SHARE
        if after > before and held > share * self._limit_bytes:
            raise Overloaded(
                f"{self.held_bytes} bytes of bodies and prompts are in flight, the limit is {self._limit_bytes}, of "
                f"which requests above {SMALL_BYTES} bytes may take {_LARGE_SHARE:.0%}; try again later"
            )
        self.held_bytes = held


class Hold:
    """One request's share of a budget. Must be released once; releasing again does nothing."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self.num_bytes = 0

    def resize(self, num_bytes: int) -> None:
        """Hold ``num_bytes`` from now on. Raises Overloaded, and changes nothing, when the budget has no room."""
        self._budget.resize(self.num_bytes, num_bytes)
        self.num_bytes = num_bytes

    def release(self) -> None:
        """Give everything back."""
        self.resize(0)
