"""Why a model failed, as its operator may read it over HTTP: one line, without the server's paths."""

from __future__ import annotations

import re

_MAX_CHARS = 500
_FOLDERS = re.compile(
    r"(?<![\w/.~:-])(?:~|\.{1,2})?/(?:[^\s'\"`;,()/]+/)*(?=[^\s'\"`;,()/])|(?<![\w/])(?:[\w.~-]+/){2,}"
)
"""The folders before a file's name: all of an absolute path's, of a relative one's from two on."""


def shown_reason(failure: str) -> str:
    """A failure's first line, its files by name alone."""
    lines = failure.strip().splitlines() or ["unknown"]
    plain = _FOLDERS.sub("", lines[0])
    return plain if len(plain) <= _MAX_CHARS else plain[:_MAX_CHARS] + "..."
