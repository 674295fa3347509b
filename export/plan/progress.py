"""Progress of a TensorRT build: nested phases folded into one fraction, shown as a bar or as a line per ten percent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from export.plan.library import Library

OnFraction = Callable[[float], None]


@dataclass(slots=True)
class _Phase:
    parent: str | None
    num_steps: int
    done: int = 0
    child: str | None = None


class PhaseTree:
    """Phases by name, as ``IProgressMonitor`` announces them; ``fraction`` never goes back."""

    def __init__(self) -> None:
        self._phases: dict[str, _Phase] = {}
        self._root: str | None = None
        self._best = 0.0

    def start(self, name: str, parent: str | None, num_steps: int) -> None:
        """A phase of ``num_steps`` began, within ``parent`` or as the whole build."""
        self._phases[name] = _Phase(parent, max(1, num_steps))
        if parent is None:
            self._root = name
        elif parent in self._phases:
            self._phases[parent].child = name

    def step(self, name: str, index: int) -> None:
        """Step ``index`` of a phase is done."""
        if name in self._phases:
            self._phases[name].done = index + 1

    def finish(self, name: str) -> None:
        """A phase is over; its parent reports the step itself."""
        phase = self._phases.pop(name, None)
        if phase is not None and phase.parent in self._phases and self._phases[phase.parent].child == name:
            self._phases[phase.parent].child = None

    @property
    def fraction(self) -> float:
        """Share of the build that is done, 0 to 1: steps done, plus the share of the one that is running."""
        share, name, weight = 0.0, self._root, 1.0
        while name is not None and name in self._phases:
            phase = self._phases[name]
            share += weight * min(1.0, phase.done / phase.num_steps)
            weight /= phase.num_steps
            name = phase.child
        self._best = max(self._best, min(1.0, share))
        return self._best


def make_monitor(library: Library, on_fraction: OnFraction, cancelled: threading.Event) -> Any:  # noqa: ANN401
    """An ``IProgressMonitor`` that reports the fraction and answers every step with whether to go on.

    It is called on the builder's thread.
    """
    base: Any = library.module.IProgressMonitor

    class _Monitor(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)
            self._tree = PhaseTree()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._tree.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tree.step(phase_name, step)
            on_fraction(self._tree.fraction)
            return not cancelled.is_set()

        def phase_finish(self, phase_name: str) -> None:
            self._tree.finish(phase_name)

    return _Monitor()


@contextmanager
def shown_progress(console: Console, title: str) -> Iterator[OnFraction]:
    """A bar on a terminal; elsewhere a line at the start and one for each tenth."""
    if not console.is_terminal:
        console.print(title, highlight=False)
        yield _TenthLines(console, title)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=1.0)
        yield lambda fraction: progress.update(task, completed=fraction)


class _TenthLines:
    def __init__(self, console: Console, title: str) -> None:
        self._console, self._title, self._tenths = console, title, 0

    def __call__(self, fraction: float) -> None:
        tenths = int(fraction * 10)
        if tenths > self._tenths:
            self._tenths = tenths
            self._console.print(f"{self._title}: {tenths * 10} %", highlight=False)
