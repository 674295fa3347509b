"""How long work is reported: a protocol for those who work, a terminal bar and silence for those who watch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console

Advance = Callable[[int], None]


class Reporter(Protocol):
    """Shows stages of work."""

    def stage(self, title: str, total: int, *, in_bytes: bool = False) -> AbstractContextManager[Advance]:
        """A stage of ``total`` units; the callable given reports how many more are done."""
        ...

    def say(self, text: str) -> None:
        """One line for the person who waits."""
        ...


class SilentReporter:
    """Reports to nobody."""

    @contextmanager
    def stage(self, title: str, total: int, *, in_bytes: bool = False) -> Iterator[Advance]:
        """A stage that nobody sees."""
        del title, total, in_bytes
        yield lambda _count: None

    def say(self, text: str) -> None:
        """Nothing."""
        del text


class TerminalReporter:
    """Bars with the time left on a terminal, one line per stage elsewhere (in a build log)."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def stage(self, title: str, total: int, *, in_bytes: bool = False) -> Iterator[Advance]:
        """One bar, left standing when it is full."""
        if not self._console.is_terminal:
            self._console.print(title, highlight=False, soft_wrap=True)
            yield lambda _count: None
            return
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        amount = DownloadColumn() if in_bytes else TaskProgressColumn()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            amount,
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(title, total=total)
            yield lambda count: progress.advance(task, count)
            progress.update(task, completed=total)

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(text, highlight=False, soft_wrap=True)
