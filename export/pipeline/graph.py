"""Which steps a pipeline has, and which each of them waits for.

    fetch ─▶ package ─┬─▶ plan, for each target ─▶ self-test, bench ─┬─▶ place
                      └─▶ self-test, eval, bench ────────────────────┘

What only a GPU can run has a step where that GPU is in this machine: elsewhere there is no such step, and a gate that
needs it is not measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from runtime.errors import AdapterError
from runtime.loading.gpu import Gpu, find_gpus

from export.checkpoint.precision_policy import ort_providers, plan_from_name
from export.errors import PipelineError, SourceError
from export.pipeline.keys import step_key
from export.pipeline.matrix import PackageWish
from export.pipeline.measuring_steps import BenchStep, EngineTestStep, EvalStep
from export.pipeline.perform import file_digest, library_name
from export.pipeline.steps import FetchStep, PackageStep, PlaceStep, PlanStep, SelfTestStep, Step
from export.plan.targets import parse_targets
from export.source.recipe import FileSource, FolderSource


@dataclass(frozen=True, slots=True)
class Measuring:
    """What is measured of every package; what a gate asks for is measured in any case."""

    self_test: bool
    evaluate: bool
    benchmark: bool


def gpu_here() -> Gpu | None:
    """The GPU that is used first, as nvidia-smi lists it: CUDA itself is not asked, which takes a second."""
    gpus = find_gpus(ask=lambda _wanted: None).gpus
    return gpus[0] if gpus else None


def build_graph(
    wishes: Sequence[PackageWish], output: Path, measuring: Measuring, gpu: Callable[[], Gpu | None] = gpu_here
) -> list[Step]:
    """Every step, each after those that it needs. Raises PipelineError, and PlanError for an impossible target."""
    fetches: dict[str, FetchStep] = {}
    steps: list[Step] = []
    seen = cache(gpu)
    for wish in wishes:
        fetch = FetchStep(wish.model, (), wish.recipe, wish.base)
        _check_there(wish)
        known = fetches.setdefault(step_key("fetch", fetch.inputs({})), fetch)
        if known is fetch:
            steps.append(fetch)
        steps += _PackageGraph(wish, known, measuring, seen).steps(output / wish.recipe.name)
    return steps


def _check_there(wish: PackageWish) -> None:
    """Raise PipelineError unless the files of this machine that a package is made of are there."""
    source, template = wish.recipe.source, wish.recipe.chat_template
    if isinstance(source, FileSource | FolderSource):
        path = wish.base / source.path
        if not (path.is_file() if isinstance(source, FileSource) else path.is_dir()):
            raise PipelineError(f"[[model]] {wish.model!r}: there is no checkpoint at {path}")
    try:
        if template:
            file_digest(Path(template))
    except SourceError as error:
        raise PipelineError(f"[[model]] {wish.model!r}, key 'chat_template': {error}") from error
    try:
        if wish.recipe.adapter:
            from runtime.adapters.peft import read_adapter

            read_adapter(Path(wish.recipe.adapter))
    except AdapterError as error:
        raise PipelineError(f"[[model]] {wish.model!r}, the recipe's adapter: {error}") from error


class _PackageGraph:
    """The steps of one package, in order."""

    def __init__(
        self, wish: PackageWish, fetch: FetchStep, measuring: Measuring, gpu: Callable[[], Gpu | None]
    ) -> None:
        self._wish, self._fetch, self._measuring, self._gpu = wish, fetch, measuring, gpu
        self._name = wish.recipe.name
        self._package = PackageStep(self._name, (fetch.name,), wish.recipe)
        self._plans: dict[str, str] = {}
        self._targets: dict[str | None, str | None] = {None: None}
        self._after: list[Step] = []

    def steps(self, root: Path) -> list[Step]:
        """All of them; the package goes to ``root``."""
        wish, fetch, package = self._wish, self._fetch, self._package
        for table in wish.targets:
            (target,) = parse_targets(table.name, library_name(table))
            plan = PlanStep(f"{self._name} {target.name}", (package.name,), table, target)
            self._plans[target.name], self._targets[table.name] = plan.name, target.name
            self._after.append(plan)
            self._measure_plan(plan, table.name)
        if "cpu" in ort_providers(plan_from_name(wish.recipe.precision, wish.recipe.block)):
            self._measure_package()
        gates = tuple(replace(gate, target=self._targets[gate.target]) for gate in wish.gates)
        needs = (fetch.name, package.name, *(step.name for step in self._after))
        place = PlaceStep(self._name, needs, wish.recipe, wish.base, root, package.name, fetch.name, self._plans, gates)
        return [package, *self._after, place]

    def _measure_package(self) -> None:
        needs = (self._package.name,)
        if self._measuring.self_test:
            self._after.append(SelfTestStep(self._name, needs))
        if self._measuring.evaluate or self._asks(None, "accuracy", "bits_per_byte"):
            self._after.append(EvalStep(self._name, needs))
        if self._measuring.benchmark or self._asks(None, "tokens_per_s"):
            self._after.append(BenchStep(self._name, needs, None))

    def _measure_plan(self, plan: PlanStep, target: str) -> None:
        is_tested = self._measuring.self_test or self._asks(target, "kl")
        is_timed = self._measuring.benchmark or self._asks(target, "tokens_per_s")
        if not (is_tested or is_timed):
            return
        gpu = self._gpu()
        if gpu is None or gpu.sm != plan.target.sm:
            return
        needs = (self._package.name, plan.name)
        if is_tested:
            self._after.append(EngineTestStep(plan.label, needs, plan.target))
        if is_timed:
            self._after.append(BenchStep(plan.label, needs, plan.target))

    def _asks(self, target: str | None, *metrics: str) -> bool:
        return any(gate.target == target and gate.metric.name in metrics for gate in self._wish.gates)
