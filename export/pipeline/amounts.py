"""Bytes, seconds and shares as people read them, and bytes as people write them. Knows nothing that has them."""

from __future__ import annotations

import re

_MIB = 2**20
UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
         "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}  # fmt: skip
NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
"""A number without a sign, as part of a regular expression."""


def size_text(count: int | None) -> str:
    """``1.5 GiB``, ``12 MiB``, ``?``."""
    if count is None:
        return "?"
    return f"{count / _MIB / 1024:.1f} GiB" if count >= 1024 * _MIB else f"{count / _MIB:.0f} MiB"


def exact_size_text(count: float) -> str:
    """``93.80 MiB``, ``1.250 GiB``, ``812 B``: enough places to tell what is just too large from what just fits."""
    for unit, places in (("GiB", 3), ("MiB", 2), ("KiB", 2)):
        if abs(count) >= UNITS[unit]:
            return f"{count / UNITS[unit]:.{places}f} {unit}"
    return f"{count:.0f} B"


def seconds_text(seconds: float | None) -> str:
    """``2 min 05 s``, ``12 s``, ``?``."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60:02} s" if whole >= 60 else f"{whole} s"


def parse_size(text: str) -> float | None:
    """Bytes of ``150 MiB``, ``1.5GB`` or ``1000``; None for what is no size."""
    found = re.fullmatch(rf"\s*(?P<number>{NUMBER})\s*(?P<unit>[A-Za-z]*)\s*", text)
    if found is None or (found["unit"] or "B") not in UNITS:
        return None
    return float(found["number"]) * UNITS[found["unit"] or "B"]
