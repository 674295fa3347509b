"""A build as people see it: a bar for each step that runs on a terminal, elsewhere a line when it starts and ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from export.pipeline.runner import Display, Outcome, State
from export.pipeline.steps import Step

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_COLOURS = {State.BUILT: "green", State.POOR: "red", State.FAILED: "red", State.SKIPPED: "yellow"}


@contextmanager
def shown_build(console: Console) -> Iterator[Display]:
    """What suits the console."""
    if not console.is_terminal:
        yield LineDisplay(console)
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
               TextColumn("{task.fields[note]}", style="dim"))  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        yield BarDisplay(console, progress)


class LineDisplay:
    """A line for a step's start, with the reason, and one for its end. What is fresh is counted in the summary."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def started(self, step: Step, why: str) -> None:
        """One line."""
        self._console.print(f"{step.name}: {why}", markup=False, highlight=False, soft_wrap=True)

    def stage(self, step: Step, title: str, total: int) -> None:
        """In the step's log."""
        del step, title, total

    def advanced(self, step: Step, done: int) -> None:
        """Not shown."""
        del step, done

    def said(self, step: Step, text: str) -> None:
        """In the step's log."""
        del step, text

    def ended(self, outcome: Outcome) -> None:
        """One line, unless there was nothing to do."""
        if outcome.state is not State.FRESH:
            self._console.print(end_line(outcome), highlight=False, soft_wrap=True)


class BarDisplay(LineDisplay):
    """A bar per running step, with its stage beside it."""

    def __init__(self, console: Console, progress: Progress) -> None:
        super().__init__(console)
        self._progress = progress
        self._bars: dict[str, TaskID] = {}

    def started(self, step: Step, why: str) -> None:
        """A bar that does not move yet."""
        self._bars[step.name] = self._progress.add_task(escape(step.name), total=None, note=escape(why))

    def stage(self, step: Step, title: str, total: int) -> None:
        """The bar begins anew."""
        self._progress.reset(self._bars[step.name], total=total, note=escape(title))

    def advanced(self, step: Step, done: int) -> None:
        """The bar's place."""
        self._progress.update(self._bars[step.name], completed=done)

    def ended(self, outcome: Outcome) -> None:
        """The bar goes, a line stays."""
        if (bar := self._bars.pop(outcome.step.name, None)) is not None:
            self._progress.remove_task(bar)
        super().ended(outcome)


def end_line(outcome: Outcome) -> str:
    """How a step came out, in markup."""
    state, name = outcome.state, escape(outcome.step.name)
    colour = _COLOURS.get(state, "dim")
    if state is State.BUILT:
        return f"[{colour}]{name}: done[/] in {outcome.seconds:.1f} s"
    return f"[{colour}]{name}: {state.value}[/]: {escape(outcome.text)}"
