"""Chooses, by measurement, which projections of a model stand 4 bits: ``--precision auto``.

A unit is one projection over a run of layers. Each is stored alone at 4 bits in an otherwise 8-bit graph and its KL
against float32 measured on part of the built-in texts. Units then go to 4 bits in the order of bytes saved per nat
lost, as long as the sum of their losses, which adds up well while it is small, stays in the budget; the whole graph is
measured at the end and units are taken back while it is over. Knows no file format and writes nothing that stays.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from runtime.manifest import ModelShape

from export.checkpoint import Checkpoint
from export.errors import QualityError
from export.graph_writer import GRAPH_FILE
from export.ort_graph import write_ort_graph
from export.precision import PrecisionPlan, WeightFormat, plan_from_name
from export.progress import Reporter, SilentReporter
from export.quality import F32, I64, GraphRunner, compare

_BANDS = 6
_PROBE_TOKENS = 160
_PROBE_WINDOWS = 2
_SHARE_SPENT = 0.8
"""Part of the budget that predicted losses may use; what is measured afterwards differs a little."""

_FOUR = WeightFormat(4, 32)
_ROLES = ("qkv", "o", "gate_up", "down")


@dataclass(frozen=True, slots=True)
class Unit:
    """A projection in layers [first, last], its weights, and what 4 bits cost it: nats of mean KL, measured."""

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
    def overrides(self) -> dict[str, WeightFormat]:
        """The plan's entries that put this unit at 4 bits."""
        return {f"layers.{layer}.{self.role}": _FOUR for layer in range(self.first, self.last + 1)}


class SensitivityProbe:
    """Measures plans of one checkpoint against its float32 graph at ``reference`` in a scratch folder."""

    def __init__(
        self, checkpoint: Checkpoint, reference: Path, windows: Sequence[I64], shape: ModelShape, scratch: Path
    ) -> None:
        self._checkpoint, self._shape, self._scratch = checkpoint, shape, scratch
        longest = sorted(windows, key=len, reverse=True)[:: max(1, len(windows) // _PROBE_WINDOWS)]
        self._windows = [window[:_PROBE_TOKENS] for window in longest[:_PROBE_WINDOWS]]
        runner = GraphRunner(reference, shape)
        self._expected: list[F32] = [runner.logits(window) for window in self._windows]

    def mean_kl(self, plan: PrecisionPlan) -> float:
        """Mean KL in nats per token of the graph that ``plan`` gives, on the probe's windows."""
        length = max(map(len, self._windows))
        try:
            write_ort_graph(self._checkpoint, plan, length, self._scratch, SilentReporter())
            runner = GraphRunner(self._scratch / GRAPH_FILE, self._shape)
            pairs = zip(self._expected, self._windows, strict=True)
            kl = [compare(expected, runner.logits(window), window).kl for expected, window in pairs]
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)
        return float(sum(part.sum() for part in kl) / sum(map(len, kl)))


def choose_plan(
    checkpoint: Checkpoint, probe: SensitivityProbe, budget: float, reporter: Reporter
) -> tuple[PrecisionPlan, dict[str, str]]:
    """(the plan, what was found per unit at 4 bits). Raises QualityError if 8 bits alone are over the budget."""
    eight = plan_from_name("int8")
    units = layer_units(checkpoint)
    with reporter.stage("Measuring what 4 bits cost", len(units) + 1) as advance:
        base = probe.mean_kl(eight)
        advance(1)
        if base > budget:
            raise QualityError(
                f"8 bits everywhere give a mean KL of {base:.4f}, the budget is {budget:g}; raise --max-kl"
            )
        measured = []
        for unit in units:
            loss = max(0.0, probe.mean_kl(_with_units(eight, [unit])) - base)
            measured.append(Unit(unit.role, unit.first, unit.last, unit.num_weights, loss))
            advance(1)
    chosen = within_budget(measured, budget * _SHARE_SPENT - base)
    while chosen and probe.mean_kl(_with_units(eight, chosen)) > budget * _SHARE_SPENT:
        chosen = chosen[:-1]
    notes = {unit.label: f"int4 block 32, +{unit.loss:.4f} nats alone" for unit in chosen}
    return _with_units(eight, chosen), notes


def layer_units(checkpoint: Checkpoint) -> list[Unit]:
    """Every projection in up to six runs of layers."""
    spec = checkpoint.spec
    sizes = {
        "qkv": (spec.q_size + 2 * spec.kv_size) * spec.hidden_size,
        "o": spec.q_size * spec.hidden_size,
        "gate_up": 2 * spec.intermediate_size * spec.hidden_size,
        "down": spec.intermediate_size * spec.hidden_size,
    }
    bands = min(_BANDS, spec.num_layers)
    edges = [spec.num_layers * band // bands for band in range(bands + 1)]
    return [
        Unit(role, first, last - 1, sizes[role] * (last - first)) for role in _ROLES for first, last in pairwise(edges)
    ]


def within_budget(units: Sequence[Unit], budget: float) -> list[Unit]:
    """Units whose losses sum to at most ``budget``, most weights per nat first."""
    chosen: list[Unit] = []
    for unit in sorted(units, key=lambda unit: unit.loss / unit.num_weights):
        if sum(other.loss for other in chosen) + unit.loss <= budget:
            chosen.append(unit)
    return chosen


def _with_units(base: PrecisionPlan, units: Sequence[Unit]) -> PrecisionPlan:
    overrides = dict(base.overrides)
    for unit in units:
        overrides |= unit.overrides
    return PrecisionPlan(base.default, base.float_type, overrides)
