"""Which stretches of a server's own text are control tokens. Knows names and ids, no grammar."""

from __future__ import annotations

import re
from collections.abc import Mapping


class ControlNames:
    """Finds control tokens' names in text, the longest where several begin at one place."""

    def __init__(self, control_ids: Mapping[str, int]) -> None:
        self._ids = control_ids
        names = sorted((name for name in control_ids if name), key=len, reverse=True)
        self._pattern = re.compile("|".join(re.escape(name) for name in names)) if names else None

    def segments(self, text: str) -> list[str | int]:
        """Text and the ids of control tokens, in turn; no text is empty."""
        segments: list[str | int] = []
        at = 0
        for start, end in self.spans(text):
            segments += [text[at:start], self._ids[text[start:end]]]
            at = end
        return [segment for segment in (*segments, text[at:]) if segment != ""]

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where the names lie: half-open ranges of positions, in order."""
        return [match.span() for match in self._pattern.finditer(text)] if self._pattern else []
