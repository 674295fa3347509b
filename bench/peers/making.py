"""Runs the steps that make a peer, and remembers which were finished. Knows no particular peer.

What a step makes counts as made only while the file ``ready`` in its folder says word for word what was made; it is
written last and removed first. A killed step and one whose recipe changed are both done again.
"""

from __future__ import annotations

import subprocess
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.errors import BenchError

_READY = "ready"
_LAST_LINES = 3


def is_made(home: Path, recipe: str) -> bool:
    """Whether ``home`` was finished by exactly this ``recipe``."""
    marker = home / _READY
    return marker.is_file() and marker.read_text(encoding="utf-8") == recipe


def mark_made(home: Path, recipe: str) -> None:
    """Say that ``home`` is finished."""
    (home / _READY).write_text(recipe, encoding="utf-8")


def unmark(home: Path) -> None:
    """Say that ``home`` is not finished (any more)."""
    (home / _READY).unlink(missing_ok=True)


def environment(home: Path, requirements: Sequence[str], say: Callable[[str], None]) -> list[str]:
    """The interpreter's command in a virtual environment in ``home`` that holds ``requirements``. BenchError.

    It finds nothing but that environment: neither the current folder nor a script's own counts as a place of modules.
    """
    python = home / "bin" / "python"
    recipe = "\n".join(requirements)
    if not (is_made(home, recipe) and python.is_file()):
        say(f"installing {requirements[0]}")
        unmark(home)
        try:
            venv.create(home, with_pip=True, clear=True)
        except subprocess.CalledProcessError as error:
            raise BenchError("this Python cannot make virtual environments; install its venv package") from error
        run([str(python), "-m", "pip", "install", "--quiet", *requirements], f"pip could not install {requirements[0]}")
        mark_made(home, recipe)
    return [str(python), "-P"]


def run(words: Sequence[str], problem: str) -> str:
    """Run a program to its end and return its output. BenchError with its last lines when it fails or is missing."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603 - callers give fixed words
    except FileNotFoundError as error:
        raise BenchError(f"{problem}: {words[0]} is not installed") from error
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines()]
        telling = [line for line in lines if line and not line.startswith("WARNING:")]  # as of pip's every retry
        raise BenchError(f"{problem}: {' / '.join(telling[-_LAST_LINES:]) or f'code {done.returncode}'}")
    return done.stdout
