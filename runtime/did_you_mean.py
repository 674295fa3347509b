"""A word that nobody knows -> the known one that it is nearest to."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that ``word`` is probably meant to be; None when none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return near[0] if near else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """That word as a question, to stand after a message with a blank; empty when none is near."""
    near = nearest(word, known)
    return f" Did you mean {near!r}?" if near else ""
