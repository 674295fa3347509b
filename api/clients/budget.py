"""A budget per minute that fills up evenly: a token bucket in whole numbers, so what it allows is exact.

A minute's worth may be spent at once; what is spent comes back at ``per_minute / 60`` a second. The level is held in
units of one sixty-billionth, of which each nanosecond brings back ``per_minute``: nothing is ever rounded but the
answers. Knows no client; ``now_ns`` is any clock that never goes back.
"""

from __future__ import annotations

_NS_PER_MINUTE = 60_000_000_000


class Budget:
    """``per_minute`` is what a minute brings, and the most that is kept. Full at first."""

    def __init__(self, per_minute: int, now_ns: int) -> None:
        self.per_minute = per_minute
        self._level = per_minute * _NS_PER_MINUTE
        self._at_ns = now_ns

    def set_rate(self, per_minute: int, now_ns: int) -> None:
        """Go on with another rate. What was spent stays spent, as far as the new budget can hold it."""
        self._refill(now_ns)
        spent = self._capacity - self._level
        self.per_minute = per_minute
        self._level = max(0, self._capacity - spent)

    def remaining(self, now_ns: int) -> int:
        """What may be spent now, in whole units."""
        self._refill(now_ns)
        return self._level // _NS_PER_MINUTE

    def wait_ns(self, amount: int, now_ns: int) -> int:
        """Nanoseconds until ``amount`` may be spent, 0 when it may be now. Only for an amount that ever fits."""
        return self._until_ns(amount * _NS_PER_MINUTE, now_ns)

    def full_ns(self, now_ns: int) -> int:
        """Nanoseconds until nothing is missing."""
        return self._until_ns(self._capacity, now_ns)

    def spend(self, amount: int, now_ns: int) -> None:
        """Take ``amount``, which ``wait_ns`` has just allowed."""
        self._refill(now_ns)
        self._level -= amount * _NS_PER_MINUTE

    def give_back(self, amount: int, now_ns: int) -> None:
        """Return what was taken and not used."""
        self._level += amount * _NS_PER_MINUTE
        self._refill(now_ns)  # which keeps no more than there may be

    @property
    def _capacity(self) -> int:
        return self.per_minute * _NS_PER_MINUTE

    def _until_ns(self, level: int, now_ns: int) -> int:
        self._refill(now_ns)
        return max(0, -((self._level - level) // self.per_minute))  # rounded up

    def _refill(self, now_ns: int) -> None:
        elapsed_ns = max(0, now_ns - self._at_ns)
        self._at_ns += elapsed_ns
        self._level = min(self._capacity, self._level + elapsed_ns * self.per_minute)
