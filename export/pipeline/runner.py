"""Runs the graph: looks up what is there, starts a process for what is not, within the budget, and keeps going.

A step that fails takes those with it that need it, and no other. Whatever ends a build, finished steps are in the cache
and the next build goes on from there. Knows no terminal and builds nothing itself.
"""

from __future__ import annotations

import enum
import selectors
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from runtime.errors import PowertrainError

from export.pipeline.cache import Cache, Stored
from export.pipeline.child import Running
from export.pipeline.costs import Cost
from export.pipeline.gates import Finding
from export.pipeline.judge import Judge
from export.pipeline.schedule import Budget, Load, next_steps, ways_to_the_end
from export.pipeline.steps import CachedStep, Done, Step
from export.pipeline.tasks import Advanced, Failed, Finished, Job, Said, Stage

Launch = Callable[[Job, Path], Running]
CostOf = Callable[[Step, Done], Cost]


class State(enum.Enum):
    """How a step came out."""

    FRESH = "fresh"
    BUILT = "built"
    POOR = "worse than allowed"
    FAILED = "failed"
    SKIPPED = "not done"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A step's end. ``text`` says why it was built, or why it was not; ``log`` is there if its process ran.

    ``stored`` is its result, if there is one, and ``findings`` are what came of a package's gates, if they were asked.
    """

    step: Step
    state: State
    text: str = ""
    seconds: float = 0.0
    log: Path | None = None
    stored: Stored | None = None
    findings: tuple[Finding, ...] = ()


class Display(Protocol):
    """Shows a build."""

    def started(self, step: Step, why: str) -> None:
        """A step's process runs."""
        ...

    def stage(self, step: Step, title: str, total: int) -> None:
        """It began a stage of so many units."""
        ...

    def advanced(self, step: Step, done: int) -> None:
        """So many units of its stage are done."""
        ...

    def said(self, step: Step, text: str) -> None:
        """It said something."""
        ...

    def ended(self, outcome: Outcome) -> None:
        """A step came to its end, fresh ones and those that were not done included."""
        ...


@dataclass(slots=True)
class _Active:
    step: Step
    load: Load
    running: Running
    key: str | None
    why: str
    log: Path
    started: float


class Runner:
    """One build of ``steps``, which are in graph order. ``logs`` gets a file for each step that runs."""

    def __init__(
        self,
        steps: Sequence[Step],
        cache: Cache,
        budget: Budget,
        *,
        judge: Judge,
        cost_of: CostOf,
        launch: Launch,
        display: Display,
        logs: Path,
        fail_fast: bool = False,
    ) -> None:
        self._cache, self._budget, self._judge, self._cost_of = cache, budget, judge, cost_of
        self._launch, self._display, self._logs, self._fail_fast = launch, display, logs, fail_fast
        self._waiting = {step.name: step for step in steps}
        self._ready: dict[str, tuple[Load, str]] = {}
        self._active: dict[str, _Active] = {}
        self._results: dict[str, Stored] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._findings: dict[str, tuple[Finding, ...]] = {}
        self._selector = selectors.DefaultSelector()

    def run(self) -> list[Outcome]:
        """Every step's outcome, in the order in which they ended."""
        try:
            while self._waiting or self._active:
                self._judge_waiting()
                self._start()
                if self._active:
                    self._listen()
        finally:
            for active in self._active.values():
                active.running.close()
            self._selector.close()
        return list(self._outcomes.values())

    def _judge_waiting(self) -> None:
        """Settle what is fresh or cannot be done; what can start is ready. Needs come first, so one pass is enough."""
        for step in list(self._waiting.values()):
            ends = [self._outcomes.get(name) for name in step.needs]
            lost = next((one for one in ends if one and one.state not in {State.FRESH, State.BUILT}), None)
            if lost is not None:
                self._end(Outcome(step, State.SKIPPED, f"needs {lost.step.name}"))
            elif self._is_stopping:
                self._end(Outcome(step, State.SKIPPED, "another step failed before"))
            elif all(ends) and step.name not in self._ready:
                self._judge_step(step)

    @property
    def _is_stopping(self) -> bool:
        bad = {State.FAILED, State.POOR}
        return self._fail_fast and any(one.state in bad for one in self._outcomes.values())

    def _judge_step(self, step: Step) -> None:
        done = self._done(step)
        try:
            verdict = self._judge.verdict(step, done)
        except PowertrainError as error:
            self._end(Outcome(step, State.FAILED, str(error)))
            return
        self._findings[step.name] = verdict.findings
        if verdict.is_refused:
            self._end(Outcome(step, State.POOR, verdict.why))
        elif verdict.is_fresh:
            self._settle(step, verdict.stored)
            self._end(Outcome(step, State.FRESH))
        else:
            self._ready[step.name] = self._cost_of(step, done).load(step), verdict.why

    def _done(self, step: Step) -> dict[str, Stored]:
        return {name: self._results[name] for name in step.needs if name in self._results}

    def _settle(self, step: Step, stored: Stored | None) -> None:
        if stored is not None:
            self._results[step.name] = stored
            self._cache.touch(stored.entry.key)

    def _end(self, outcome: Outcome) -> None:
        name = outcome.step.name
        self._waiting.pop(name, None)
        self._ready.pop(name, None)
        outcome = replace(outcome, stored=self._results.get(name), findings=self._findings.get(name, ()))
        self._outcomes[name] = outcome
        self._display.ended(outcome)

    def _start(self) -> None:
        """Start what the rules say. A step is expected to take what is known now, and a minute where nothing is."""
        if not self._ready:
            return
        left = [*self._waiting.values()]
        names = {step.name for step in left}
        loads = [
            Load(step.name, tuple(name for name in step.needs if name in names), self._seconds(step), None)
            for step in left
        ]
        running = [active.load for active in self._active.values()]
        ready = [load for load, _ in self._ready.values()]
        for load in next_steps(ready, running, self._budget, ways_to_the_end(loads)):
            step, why = self._waiting[load.name], self._ready.pop(load.name)[1]
            self._judge_step(step)  # once more: another step, or another build, may have made the same meanwhile
            if self._ready.pop(load.name, None) is not None:
                self._launch_step(self._waiting.pop(load.name), load, why)

    def _seconds(self, step: Step) -> float:
        known = self._ready.get(step.name)
        return known[0].seconds if known else self._cost_of(step, {}).load(step).seconds

    def _launch_step(self, step: Step, load: Load, why: str) -> None:
        done, log = self._done(step), self._logs / f"{step.name.replace(' ', '-')}.log"
        try:
            task = step.task(done, self._budget.share(load))
            running = self._launch(Job(cache=str(self._cache.root), task=task), log)
        except PowertrainError as error:
            self._end(Outcome(step, State.FAILED, str(error)))
            return
        key = step.identity(done).key if isinstance(step, CachedStep) else None
        self._active[step.name] = _Active(step, load, running, key, why, log, time.monotonic())
        self._selector.register(running.fileno(), selectors.EVENT_READ, step.name)
        self._display.started(step, why)

    def _listen(self) -> None:
        for ready, _ in self._selector.select():
            active = self._active[ready.data]
            for message in active.running.messages():
                match message:
                    case Stage():
                        self._display.stage(active.step, message.title, message.total)
                    case Advanced():
                        self._display.advanced(active.step, message.done)
                    case Said():
                        self._display.said(active.step, message.text)
                    case Finished() | Failed():
                        self._finish(active, message)
                        break

    def _finish(self, active: _Active, message: Finished | Failed) -> None:
        step, seconds = active.step, time.monotonic() - active.started
        self._selector.unregister(active.running.fileno())
        active.running.close()
        del self._active[step.name]
        if isinstance(message, Failed):
            state = State.POOR if message.is_quality else State.FAILED
            self._end(Outcome(step, state, message.text, seconds, active.log))
            return
        stored = self._cache.find(active.key) if active.key else None
        if active.key and stored is None:
            text = "its result was removed from the cache at once; run the build again"
            self._end(Outcome(step, State.FAILED, text, seconds, active.log))
            return
        self._settle(step, stored)
        self._end(Outcome(step, State.BUILT, active.why, seconds, active.log))
