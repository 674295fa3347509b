"""Steps run in this process, or in a copy of it that may be killed; TensorRT's compiler is a stand-in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from export.errors import QualityError
from export.pipeline.cache import Cache
from export.pipeline.child import Running
from export.pipeline.perform import perform
from export.pipeline.runner import Display, Outcome, Runner
from export.pipeline.setup import Setup, prepare
from export.pipeline.steps import Step
from export.pipeline.tasks import Failed, Finished, Job, Message, PlaceTask
from export.plan import store
from export.plan.builder import BuiltPlan
from export.plan.network import NetworkFacts
from export.progress import SilentReporter
from runtime.errors import PowertrainError

MODEL = '[[model]]\nmodel = "hf"\nname = "tiny"\nquality = false\n'
TARGETS = "".join(f'[[target]]\nname = "{sm}"\nmax_slots = 4\nprefill_tokens = 32\n' for sm in ("sm89", "sm120"))
FULL = 'precisions = ["fp32"]\n' + MODEL + TARGETS
CPU_ONLY = 'precisions = ["fp32"]\nself_test = false\n' + MODEL
ALL = ["fetch tiny", "package tiny-fp32", "plan tiny-fp32 sm89", "plan tiny-fp32 sm120", "self-test tiny-fp32",
       "place tiny-fp32"]  # fmt: skip


class InProcess:
    """A step that ran to its end when it was started."""

    def __init__(self, job: Job) -> None:
        self._pipe, theirs = os.pipe()
        os.close(theirs)  # readable at once: the end
        self._message: Message = Finished()
        try:
            perform(job.task, Cache(Path(job.cache)), SilentReporter())
        except PowertrainError as error:
            self._message = Failed(str(error), isinstance(error, QualityError))

    def fileno(self) -> int:
        return self._pipe

    def messages(self) -> Iterator[Message]:
        yield self._message

    def close(self) -> None:
        os.close(self._pipe)


def job_name(job: Job) -> str:
    """Kind and label of a job's step."""
    if isinstance(job.task, PlaceTask):
        return f"place {Path(job.task.root).name}"
    return f"{job.task.identity.kind} {job.task.identity.label}"


class Quiet(Display):
    """Shows nothing."""

    def started(self, step: Step, why: str) -> None: ...
    def stage(self, step: Step, title: str, total: int) -> None: ...
    def advanced(self, step: Step, done: int) -> None: ...
    def said(self, step: Step, text: str) -> None: ...
    def ended(self, outcome: Outcome) -> None: ...


class Workshop:
    """A pipeline file in a folder, and builds of it from the checkpoint ``hf``, in ``checkpoints``.

    ``started`` are the steps that the last build ran.
    """

    def __init__(self, folder: Path, checkpoints: Path | None = None) -> None:
        self.folder, self.checkpoints, self.started = folder, checkpoints or folder, list[str]()

    def setup(self, text: str, **changes: Any) -> Setup:
        text = text.replace('model = "hf"', f'model = "{self.checkpoints}/hf"')
        (self.folder / "p.toml").write_text(f'output = "out"\ncache = "cache"\njobs = 1\nmemory_mib = 4000\n{text}')
        return prepare(self.folder / "p.toml", self.folder / "home", **changes)

    def build(
        self,
        text: str,
        *,
        fail_fast: bool = False,
        launch: Callable[[Job], Running] = InProcess,
        baseline: Path | None = None,
    ) -> list[Outcome]:
        setup, self.started = self.setup(text, baseline=baseline), []

        def noted(job: Job, log: Path) -> Running:
            del log
            self.started.append(job_name(job))
            return launch(job)

        runner = Runner(
            setup.steps,
            setup.cache,
            setup.budget,
            judge=setup.judge(),
            cost_of=setup.cost_of,
            launch=noted,
            display=Quiet(),
            logs=setup.logs,
            fail_fast=fail_fast,
        )
        return runner.run()


def pretend_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans are some bytes that name what they were compiled from."""

    def build_plan(
        graph: Path, capacity: int, target: Any, settings: Any, on_fraction: Callable[[float], None], *, head: Path
    ) -> Any:
        assert head.is_file()
        on_fraction(1.0)
        data = f"{capacity} {target.sm} {settings.max_slots} {graph.stat().st_size}".encode() * 40
        return BuiltPlan(memoryview(data), 2**20, NetworkFacts(1, 1, 0, (), (2, capacity, 16), "float32"), 0.5, 2**20)

    monkeypatch.setattr(store, "build_plan", build_plan)
