"""The parts of a help page that click has no word for."""

from __future__ import annotations


def examples(*lines: str) -> str:
    """Lines to try, as a command's epilog: each stands on its own under the options."""
    return "\n\n".join(("Examples:", *lines))
