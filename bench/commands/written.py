"""Tells the person which files a command wrote. Prints to standard error, so that tables can be piped."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console


def say_written(*paths: Path) -> None:
    """One line per file."""
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    for path in paths:
        console.print(f"wrote {path}")
