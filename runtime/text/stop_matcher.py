"""Finds stop strings in text that arrives in pieces, and says how much of it may already be shown.

Owns the search and the hold-back; knows neither tokens nor requests.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopMatch:
    """A stop string, where it begins in the text, and where the text is to be cut."""

    stop: str
    start: int
    cut: int


class StopMatcher:
    """Searches text that was not shown yet for a set of stop strings.

    Because ``held_back`` keeps every tail that may become a stop string, a match never begins in text that was shown:
    both calls need the unshown text only, and the cost of a whole answer stays linear in its length.
    """

    __slots__ = ("_keeps_stop", "_longest", "_stops")

    def __init__(self, stops: tuple[str, ...], *, keeps_stop: bool = False) -> None:
        self._stops = stops
        self._keeps_stop = keeps_stop
        self._longest = max((len(stop) for stop in stops), default=0)

    def find(self, unshown: str, cuts: AbstractSet[int] | None = None) -> StopMatch | None:
        """The earliest match that cuts the text at one of ``cuts`` (None: anywhere); of several there the longest."""
        found = [match for stop in self._stops if (match := self._first(unshown, stop, cuts)) is not None]
        return min(found, key=lambda match: (match.start, -len(match.stop)), default=None)

    def _first(self, unshown: str, stop: str, cuts: AbstractSet[int] | None) -> StopMatch | None:
        start = unshown.find(stop)
        while start >= 0:
            cut = start + len(stop) if self._keeps_stop else start
            if cuts is None or cut in cuts:
                return StopMatch(stop, start, cut)
            start = unshown.find(stop, start + 1)
        return None

    def held_back(self, unshown: str) -> int:
        """Length of the longest tail that is a proper prefix of a stop string, given that ``find`` found nothing.

        A whole stop string that must not cut the text is text, and held only as far as another may begin in it.
        """
        for start in range(max(0, len(unshown) - self._longest + 1), len(unshown)):
            tail = unshown[start:]
            if any(len(stop) > len(tail) and stop.startswith(tail) for stop in self._stops):
                return len(unshown) - start
        return 0
