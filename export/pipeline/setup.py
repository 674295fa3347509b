"""From a pipeline file and the machine to a build that can start: steps, cache, budget. Starts nothing."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from runtime.errors import PlanError
from runtime.session.kv_budget import available_memory_bytes

from export.errors import PipelineError
from export.pipeline.build_report import BuildReport, read_report
from export.pipeline.cache import Cache
from export.pipeline.config import load_pipeline
from export.pipeline.costs import Cost, CostBook
from export.pipeline.graph import Measuring, build_graph
from export.pipeline.judge import Judge
from export.pipeline.matrix import wished_packages
from export.pipeline.schedule import Budget
from export.pipeline.steps import Done, FetchStep, Step
from export.source.recipe import HubSource

CACHE_FOLDER = ".steps"
"""Below the folder of packages."""

_MEMORY_SHARE = 0.8


@dataclass(slots=True)
class Setup:
    """A build before it starts. ``logs`` is the folder of its steps' logs, ``output`` that of its packages.

    ``baseline`` is the report of an earlier build, to compare with.
    """

    steps: list[Step]
    cache: Cache
    budget: Budget
    logs: Path
    output: Path
    baseline: BuildReport | None = None
    _costs: CostBook | None = field(default=None, init=False)

    def judge(self, *, refetch: bool = False) -> Judge:
        """What says whether a step is fresh. ``refetch``: it speaks as if ``forget_fetched`` had been called."""
        gone = [step.name for step in self._moving] if refetch else ()
        return Judge(self.cache, refetch=gone, baseline=self.baseline.measures() if self.baseline else None)

    def forget_fetched(self) -> None:
        """Have the hub asked again what its repositories hold."""
        for step in self._moving:
            self.cache.forget(step.identity({}).key)

    @property
    def _moving(self) -> list[FetchStep]:
        """Steps that fetch what may be another thing tomorrow."""
        return [one for one in self.steps if isinstance(one, FetchStep) and isinstance(one.recipe.source, HubSource)]

    def cost_of(self, step: Step, done: Done) -> Cost:
        """What a step takes. The cache is searched for such steps when that is asked first."""
        if self._costs is None:
            self._costs = CostBook(self.cache.entries(), self.budget.memory_bytes)
        return self._costs.cost(step, done)

    def free_bytes(self) -> int:
        """Bytes free where packages go."""
        folder = next(path for path in (self.output, *self.output.parents) if path.exists())
        return shutil.disk_usage(folder).free


def cache_folder(home: Path) -> Path:
    """The cache that all pipelines share unless they name another."""
    return home.absolute() / CACHE_FOLDER


def prepare(
    path: Path,
    home: Path,
    *,
    cache: Path | None = None,
    jobs: int | None = None,
    memory_mib: int | None = None,
    baseline: Path | None = None,
) -> Setup:
    """Read a pipeline file and make its graph. ``home`` is the folder of packages and recipes.

    What is not None goes before the file's; ``baseline`` is a report's JSON. Raises PipelineError, also for a target
    that cannot be built for.
    """
    pipeline, folder = load_pipeline(path), path.absolute().parent
    output = home.absolute() if pipeline.output is None else folder / Path(pipeline.output).expanduser()
    if cache is None:
        cache = cache_folder(home) if pipeline.cache is None else folder / Path(pipeline.cache).expanduser()
    try:
        measuring = Measuring(pipeline.self_test, pipeline.evaluate, pipeline.benchmark)
        steps = build_graph(wished_packages(pipeline, folder, home), output, measuring)
    except (PipelineError, PlanError) as error:
        raise PipelineError(f"{path}: {error}") from error
    mib = memory_mib or pipeline.memory_mib
    memory = mib * 2**20 if mib else int(available_memory_bytes() * _MEMORY_SHARE)
    budget = Budget(jobs or pipeline.jobs or len(os.sched_getaffinity(0)), memory)
    store = Cache(cache.absolute())
    earlier = None if baseline is None else read_report(baseline)
    return Setup(steps, store, budget, store.root / "logs" / path.stem, output, earlier)
