"""The float32 twin of a checkpoint's graph, and everything that is measured against it.

Owns the twin, written to a scratch folder at the first comparison, and the check that this machine can hold it.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from runtime.package.manifest import ModelShape, Quality
from runtime.session.kv_budget import available_memory_bytes

from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.explain import estimate
from export.checkpoint.precision import EXACT, PrecisionPlan
from export.checkpoint.precision_policy import four_bit_candidates, has_integer_products, plan_from_name
from export.checkpoint.spec import DecoderSpec
from export.errors import ExportError
from export.graph.kv_scales import KvScales
from export.graph.ort.graph import write_ort_graph
from export.graph.writer import GRAPH_FILE
from export.measure.input_ranges import measure_input_ranges
from export.measure.kv_scales import measure_kv_scales
from export.measure.quality import I64, WINDOW_TOKENS, GraphRunner, check_quality, measure_quality, text_windows
from export.measure.sensitivity import SensitivityProbe, choose_plan
from export.measure.smoothing import SmoothedCheckpoint, fit_projections
from export.progress import Reporter, SilentReporter
from export.source.recipe import Recipe

_MEASURING_BYTES = 500_000_000
"""Logits of a window in float64, both graphs' activations, Python; measured on the default model."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A plan, the checkpoint that its graph is made of, and what the manifest says of it."""

    checkpoint: Checkpoint
    plan: PrecisionPlan
    notes: dict[str, str]

    def scaled(self, scales: KvScales) -> KvScales:
        """``scales`` of the original checkpoint's cache as they are for ``checkpoint``."""
        if not isinstance(self.checkpoint, SmoothedCheckpoint):
            return scales
        return scales.with_values_times([self.checkpoint.value_factors(layer) for layer in range(len(scales.scales))])


class Gauge:
    """Compares graphs with the checkpoint's float32 graph, which is written to ``scratch`` at the first comparison."""

    def __init__(self, checkpoint: Checkpoint, max_model_len: int, tokenizer_json: str, scratch: Path) -> None:
        self._checkpoint, self._max_model_len, self._scratch = checkpoint, max_model_len, scratch
        self._windows = list(text_windows(tokenizer_json, min(WINDOW_TOKENS, max_model_len)))
        self._shape = model_shape(checkpoint.spec)

    def measure(self, graph: Path, recipe: Recipe, reporter: Reporter) -> Quality:
        """The quality report of ``graph``. Raises QualityError if it is over the recipe's limit."""
        quality = measure_quality(
            self._reference(),
            graph,
            windows=self._windows,
            shape=self._shape,
            max_mean_kl=recipe.quality.max_mean_kl if recipe.quality else float("inf"),
            reporter=reporter,
        )
        check_quality(quality, recipe.name)
        return quality

    def kv_scales(self, reporter: Reporter) -> KvScales:
        """What one code of an int8 cache of the checkpoint's own graph stands for."""
        runner = GraphRunner(self._reference(), self._shape)
        return measure_kv_scales(runner, self._calibration_windows, self._shape, reporter)

    @property
    def _calibration_windows(self) -> list[I64]:
        return self._windows[::2]

    def choose(self, recipe: Recipe, reporter: Reporter) -> Choice:
        """The mixed plan of ``auto`` or ``w8a8`` within the recipe's limit."""
        checkpoint, reference = self._checkpoint, self._reference()
        if has_integer_products(recipe.precision):
            ranges = measure_input_ranges(reference, self._calibration_windows, self._shape, reporter)
            fits = fit_projections(checkpoint, ranges)
        else:
            fits = {}
        candidates = {name: fit.format for name, fit in fits.items()} or four_bit_candidates(checkpoint.spec)

        def prepare(plan: PrecisionPlan) -> SmoothedCheckpoint:
            return SmoothedCheckpoint(checkpoint, fits, plan.integer_names)

        probe = SensitivityProbe(prepare, reference, self._windows, self._shape, self._scratch / "probe")
        eight = plan_from_name(recipe.precision, recipe.block)
        budget = recipe.quality.max_mean_kl if recipe.quality else 0.0
        plan, notes = choose_plan(checkpoint.spec, eight, candidates, probe.mean_kl, budget=budget, reporter=reporter)
        return Choice(prepare(plan), plan, notes)

    def _reference(self) -> Path:
        folder = self._scratch / "float32"
        if not folder.is_dir():
            size = estimate(self._checkpoint.spec, EXACT, self._max_model_len).graph_bytes
            # ONNX Runtime holds matrices as they are stored and as its kernels want them.
            _check_memory(2 * size + _MEASURING_BYTES)
            check_space(self._scratch.parent, size)
            write_ort_graph(self._checkpoint, EXACT, self._max_model_len, folder, SilentReporter())
        return folder / GRAPH_FILE


def check_space(folder: Path, wanted: int) -> None:
    """Raise ExportError unless ``wanted`` bytes are free in ``folder``."""
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise ExportError(
            f"{wanted / 2**20:,.0f} MiB are needed in {folder.parent} and {free / 2**20:,.0f} MiB are free; "
            "free some space or choose another folder with -o"
        )


def _check_memory(wanted: int) -> None:
    available = available_memory_bytes()
    if available < wanted:
        raise ExportError(
            f"measuring against float32 needs about {wanted / 2**30:.1f} GiB of memory, "
            f"{available / 2**30:.1f} GiB are available; use a larger machine, or --no-quality to go without the report"
        )


def model_shape(spec: DecoderSpec) -> ModelShape:
    """The dimensions that the manifest gives to runtimes."""
    return ModelShape(
        num_layers=spec.num_layers,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        vocab_size=spec.vocab_size,
    )
