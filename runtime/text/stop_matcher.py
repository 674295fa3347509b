"""Finds stop strings in text that arrives in pieces, and says how much of it may already be shown.

Owns the search and the hold-back; knows neither tokens nor requests.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopMatch:
    """A stop string and where it begins in the text."""

    stop: str
    start: int


class StopMatcher:
    """Searches text that was not shown yet for a set of stop strings.

    Because ``held_back`` keeps every tail that may become a stop string, a match never begins in text that was shown:
    both calls need the unshown text only, and the cost of a whole answer stays linear in its length.
    """

    __slots__ = ("_longest", "_stops")

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._longest = max((len(stop) for stop in stops), default=0)

    def find(self, unshown: str) -> StopMatch | None:
        """The earliest match; of several at one place the longest."""
        found = [StopMatch(stop, start) for stop in self._stops if (start := unshown.find(stop)) >= 0]
        return min(found, key=lambda match: (match.start, -len(match.stop)), default=None)

    def held_back(self, unshown: str) -> int:
        """Length of the longest tail that is a proper prefix of a stop string, given that ``find`` found nothing."""
        for start in range(max(0, len(unshown) - self._longest + 1), len(unshown)):
            tail = unshown[start:]
            if any(stop.startswith(tail) for stop in self._stops):
                return len(unshown) - start
        return 0
