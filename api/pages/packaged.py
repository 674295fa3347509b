"""Files that come with the server: the pages' own, and what is not ours. No client's text gets into a name."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def packaged(name: str) -> bytes:
    """The bytes of ``name``, a path within this folder."""
    return (_HERE / name).read_bytes()
