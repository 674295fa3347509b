"""Chooses, by measurement, which projections of a model stand a cheaper form than 8-bit blocks.

``--precision auto`` offers 4 bits, ``--precision w8a8`` products of integers. A unit is one projection over a run of
layers. Each is put alone into an otherwise 8-bit graph and its KL against float32 measured on part of the built-in
texts: first over all layers, then, where that is too dear, in runs of layers. Units are taken in the order of weights
per nat lost, as long as the sum of their losses, which adds up well while it is small, stays in the budget; the whole
graph is measured at the end and units are taken back while it is over. Knows no file format and writes nothing that
stays.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from runtime.package.manifest import ModelShape

from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.precision import PrecisionPlan, WeightFormat
from export.checkpoint.precision_policy import PROJECTIONS
from export.checkpoint.spec import DecoderSpec
from export.errors import QualityError
from export.graph.ort.graph import write_ort_graph
from export.graph.writer import GRAPH_FILE
from export.measure.quality import F32, I64, GraphRunner, compare
from export.measure.twin import Twin
from export.progress import Reporter, SilentReporter

_RUNS = 6
_PROBE_TOKENS = 96
"""Of each window's beginning, where losses are larger than on the whole (0.0109 against 0.0092 for 8-bit blocks on the
default model), so what the probe finds within the budget passes the gate with room to spare."""

_PROBE_BYTES = 400_000_000
"""Of float32 logits to compare with; large vocabularies are measured on fewer tokens."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A projection in layers [first, last], its weights, and what the cheaper form costs it: nats of mean KL."""

    role: str
    first: int
    last: int
    num_weights: int
    loss: float = 0.0

    @property
    def label(self) -> str:
        """As the manifest names it."""
        return f"{self.role} of layers {self.first}-{self.last}"

    @property
    def names(self) -> list[str]:
        """The plan's names of its matrices."""
        return [f"layers.{layer}.{self.role}" for layer in range(self.first, self.last + 1)]


class SensitivityProbe:
    """Measures plans against the float32 twin in a scratch folder.

    ``prepare`` gives the checkpoint that a plan's graph is made of.
    """

    def __init__(
        self,
        prepare: Callable[[PrecisionPlan], Checkpoint],
        twin: Twin,
        windows: Sequence[I64],
        shape: ModelShape,
        scratch: Path,
    ) -> None:
        self._prepare, self._shape, self._scratch = prepare, shape, scratch
        affordable = _PROBE_BYTES // (4 * shape.vocab_size * len(windows))
        self._windows = [window[: min(_PROBE_TOKENS, affordable)] for window in windows]
        self._expected: list[F32] = list(twin.logits(self._windows))

    def mean_kl(self, plan: PrecisionPlan) -> float:
        """Mean KL in nats per token of the graph that ``plan`` gives, on the beginnings of all windows."""
        length = max(map(len, self._windows))
        try:
            write_ort_graph(self._prepare(plan), plan, length, self._scratch, SilentReporter())
            runner = GraphRunner(self._scratch / GRAPH_FILE, self._shape)
            pairs = zip(self._expected, self._windows, strict=True)
            kl = [compare(expected, runner.logits(window), window).kl for expected, window in pairs]
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)
        return float(sum(part.sum() for part in kl) / sum(map(len, kl)))


def choose_units(
    spec: DecoderSpec,
    eight: PrecisionPlan,
    candidates: Mapping[str, WeightFormat],
    mean_kl: Callable[[PrecisionPlan], float],
    *,
    budget: float,
    reporter: Reporter,
) -> list[Unit]:
    """The units that take their candidate form, with what each costs alone.

    ``eight`` holds 8-bit blocks only, ``candidates`` another form for each projection, ``mean_kl`` measures a plan.
    Raises QualityError if ``eight`` alone is over the budget.
    """

    def measured(title: str, units: Sequence[Unit]) -> list[Unit]:
        with reporter.stage(title, len(units)) as advance:
            found = []
            for unit in units:
                found.append(replace(unit, loss=max(0.0, mean_kl(plan_with_units(eight, candidates, [unit])) - base)))
                advance(1)
            return found

    base = mean_kl(eight)
    if base > budget:
        raise QualityError(f"8 bits everywhere give a mean KL of {base:.4f}, the budget is {budget:g}; raise --max-kl")
    whole = measured(
        "Measuring what each projection costs", [unit_of(spec, role, 0, spec.num_layers) for role in PROJECTIONS]
    )
    chosen = within_budget(whole, budget - base)
    runs = [run for unit in whole if unit not in chosen for run in layer_runs(spec, unit.role)]
    left = budget - base - sum(unit.loss for unit in chosen)
    if runs:
        chosen += within_budget(measured("Measuring what runs of layers cost", runs), left)
    while chosen and mean_kl(plan_with_units(eight, candidates, chosen)) > budget:
        chosen = chosen[:-1]
    return chosen


def plan_with_units(
    eight: PrecisionPlan, candidates: Mapping[str, WeightFormat], units: Sequence[Unit]
) -> PrecisionPlan:
    """``eight`` with the candidate forms of ``units``."""
    return eight.keeping({name: candidates[name] for unit in units for name in unit.names})


def unit_notes(candidates: Mapping[str, WeightFormat], units: Sequence[Unit]) -> dict[str, str]:
    """What the manifest says of each unit: its form, and what that costs alone."""
    form = {unit.label: candidates[unit.names[0]].label("float32") for unit in units}
    return {unit.label: f"{form[unit.label]}, +{unit.loss:.4f} nats alone" for unit in units}


def layer_runs(spec: DecoderSpec, role: str) -> list[Unit]:
    """A projection in up to six runs of layers."""
    num_runs = min(_RUNS, spec.num_layers)
    edges = [spec.num_layers * run // num_runs for run in range(num_runs + 1)]
    return [unit_of(spec, role, first, end) for first, end in pairwise(edges)]


def within_budget(units: Sequence[Unit], budget: float) -> list[Unit]:
    """Units whose losses sum to at most ``budget``, most weights per nat first."""
    chosen: list[Unit] = []
    for unit in sorted(units, key=lambda unit: unit.loss / unit.num_weights):
        if sum(other.loss for other in chosen) + unit.loss <= budget:
            chosen.append(unit)
    return chosen


def unit_of(spec: DecoderSpec, role: str, first: int, end: int, loss: float = 0.0) -> Unit:
    """A projection in layers [first, end)."""
    outs = {"qkv": spec.q_size + 2 * spec.kv_size, "o": spec.hidden_size, "gate_up": 2 * spec.intermediate_size}
    ins = {"o": spec.q_size, "down": spec.intermediate_size}
    size = outs.get(role, spec.hidden_size) * ins.get(role, spec.hidden_size)
    return Unit(role, first, end - 1, size * (end - first), loss)
