"""Gauge: what is measured against the float32 twin of a checkpoint, once it is known that this machine can do it.

Owns the choice between the two kinds of twin and their scratch folder. Nothing here is made when nothing is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.package.manifest import ModelShape, Quality
from runtime.session.kv_budget import available_memory_bytes

from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.precision import PrecisionPlan
from export.checkpoint.precision_policy import (
    four_bit_candidates,
    has_integer_products,
    needs_float32_first,
    plan_from_name,
)
from export.checkpoint.spec import DecoderSpec
from export.errors import QualityError
from export.graph.kv_scales import KvScales
from export.measure.ahead import halves, one_ahead
from export.measure.folded import FoldedCheckpoint
from export.measure.input_ranges import measure_input_ranges
from export.measure.kv_scales import measure_kv_scales
from export.measure.layerwise import LayerwiseTwin
from export.measure.memory import TextSize, Way, choose_way
from export.measure.pinned import choice_digest, pin_text, pinned_units
from export.measure.quality import (
    F32,
    I64,
    WINDOW_TOKENS,
    check_quality,
    compare_logits,
    measure_quality,
    text_windows,
)
from export.measure.sensitivity import SensitivityProbe, choose_units, plan_with_units, unit_notes
from export.measure.sessions import BulkRunner
from export.measure.smoothing import SmoothedCheckpoint, fit_projections
from export.measure.twin import Twin, WholeTwin
from export.measure.unadapted import unadapted_logits
from export.progress import Reporter
from export.source.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Choice:
    """A plan, the checkpoint that its graph is made of, what the manifest says of it, and what would pin it."""

    checkpoint: Checkpoint
    plan: PrecisionPlan
    notes: dict[str, str]
    pin_text: str = ""

    def scaled(self, scales: KvScales) -> KvScales:
        """``scales`` of the original checkpoint's cache as they are for ``checkpoint``."""
        if not isinstance(self.checkpoint, SmoothedCheckpoint):
            return scales
        return scales.with_values_times([self.checkpoint.value_factors(layer) for layer in range(len(scales.scales))])


class Gauge:
    """Compares a recipe's graphs with the float32 twin ``twin`` on ``windows`` of the built-in texts.

    ``has_room`` for two windows' logits at a time, so that the next are made while the last are compared.
    """

    def __init__(
        self,
        recipe: Recipe,
        checkpoint: Checkpoint,
        make_twin: Callable[[Checkpoint, str], Twin],
        windows: Sequence[I64],
        scratch: Path,
        *,
        has_room: bool = True,
    ) -> None:
        self._has_room = has_room
        self._recipe, self._checkpoint, self._windows = recipe, checkpoint, windows
        self._make_twin, self._twin = make_twin, make_twin(checkpoint, "float32")
        self._probe_folder = scratch / "probe"
        self._shape = model_shape(checkpoint.spec)
        self._limit = recipe.quality.max_mean_kl if recipe.quality else float("inf")
        self._uses_pin = False

    def measure(self, graph: Path, reporter: Reporter) -> Quality:
        """The quality report of ``graph``. Raises QualityError if it is over the recipe's limit."""
        reference = self._twin.logits(self._windows)
        if self._recipe.lora is not None:
            logits = unadapted_logits(graph, self._shape, self._windows)
            quality = compare_logits(
                reference, logits, windows=self._windows, max_mean_kl=self._limit, reporter=reporter
            )
        elif self._has_room:
            quality = self._compared_ahead(reference, graph, reporter)
        else:
            quality = measure_quality(
                reference,
                graph,
                windows=self._windows,
                shape=self._shape,
                max_mean_kl=self._limit,
                reporter=reporter,
            )
        return self._checked(quality)

    def _compared_ahead(self, reference: Iterator[F32], graph: Path, reporter: Reporter) -> Quality:
        """The same report, with the next window's logits made while the last one's are compared."""
        runner = BulkRunner(graph, self._shape)
        pairs = ((next(reference), runner.logits(window)) for window in self._windows)  # zip would keep its last pair
        expected, found = halves(one_ahead(pairs))
        return compare_logits(expected, found, windows=self._windows, max_mean_kl=self._limit, reporter=reporter)

    def emulate(self, stored: Checkpoint, reporter: Reporter) -> Quality:
        """The report of weights as they are stored, computed in float32: for a graph that no CPU runs.

        Raises QualityError if it is over the recipe's limit.
        """
        reference = self._twin.logits(self._windows)
        quality = compare_logits(
            reference,
            self._make_twin(stored, "stored").logits(self._windows),
            windows=self._windows,
            max_mean_kl=self._limit,
            reporter=reporter,
        )
        return self._checked(quality)

    def _checked(self, quality: Quality) -> Quality:
        try:
            check_quality(quality, self._recipe.name)
        except QualityError as error:
            hint = "; the recipe pins this choice, --remeasure searches for another" if self._uses_pin else ""
            raise QualityError(f"{error}{hint}") from error
        return quality

    def kv_scales(self, reporter: Reporter) -> KvScales:
        """What one code of an int8 cache of the checkpoint's own graph stands for."""
        return measure_kv_scales(self._twin, self._calibration_windows, self._shape, reporter)

    def choose(self, weights_sha256: str, reporter: Reporter) -> Choice:
        """The mixed plan of a measured precision within the recipe's limit: the pinned one if it was made for this."""
        checkpoint, recipe = self._checkpoint, self._recipe
        if has_integer_products(recipe.precision):
            ranges = measure_input_ranges(self._twin, self._calibration_windows, reporter)
            self._twin.begin(self._windows)
            fits = fit_projections(checkpoint, ranges)
        else:
            fits = {}
        candidates = {name: fit.format for name, fit in fits.items()} or four_bit_candidates(checkpoint.spec)

        def prepare(plan: PrecisionPlan) -> FoldedCheckpoint:
            return FoldedCheckpoint(checkpoint, fits, plan.integer_names)

        eight = plan_from_name(recipe.precision, recipe.block)
        digest = choice_digest(recipe, weights_sha256)
        self._uses_pin = recipe.pinned is not None and recipe.pinned.digest == digest
        if recipe.pinned is not None and self._uses_pin:
            units = pinned_units(recipe.pinned, checkpoint.spec)
        else:
            if recipe.pinned is not None:
                reporter.say("The recipe pins a choice for other weights, settings or code: measuring anew")
            probe = SensitivityProbe(prepare, self._twin, self._windows, self._shape, self._probe_folder)
            units = choose_units(
                checkpoint.spec, eight, candidates, probe.mean_kl, budget=self._limit, reporter=reporter
            )
        plan = plan_with_units(eight, candidates, units)
        return Choice(prepare(plan), plan, unit_notes(candidates, units), pin_text(digest, units))

    @property
    def _calibration_windows(self) -> Sequence[I64]:
        return self._windows[::2]


def prepare_gauge(
    recipe: Recipe,
    checkpoint: Checkpoint,
    plan: PrecisionPlan,
    max_model_len: int,
    *,
    tokenizer_json: str,
    scratch: Path,
    reporter: Reporter,
    available_bytes: int | None = None,
) -> tuple[Gauge, Way]:
    """The gauge for a package stored by ``plan``, and how its twin is computed; nothing is written yet.

    Without an ``ort`` graph the weights as stored are emulated, with a twin of their own.
    ``available_bytes`` None: ask Linux. Raises ExportError with the numbers if this machine has too little memory.
    """
    windows = list(text_windows(tokenizer_json, min(WINDOW_TOKENS, max_model_len)))
    text = TextSize(sum(map(len, windows)), max(map(len, windows)))
    way_out = "--no-quality to go without the report"
    if needs_float32_first(recipe.precision, int8_cache=recipe.kv_cache == "int8"):
        way_out = "--precision int8 --kv-cache float --no-quality, which measure nothing"
    available = available_memory_bytes() if available_bytes is None else available_bytes
    own = plan if "ort" in recipe.dialects else None
    way = choose_way(checkpoint.spec, own, max_model_len, text, available_bytes=available, way_out=way_out)

    def make_twin(weights: Checkpoint, folder: str) -> Twin:
        if way.is_whole:
            return WholeTwin(weights, max_model_len, model_shape(checkpoint.spec), scratch / folder)
        return LayerwiseTwin(weights, max_model_len, scratch / "layer", reporter)

    how = "as one graph" if way.is_whole else "layer by layer"
    reporter.say(
        f"Measuring against float32, computed {how}: "
        f"about {way.memory_bytes / 2**30:.1f} GiB of memory, {available / 2**30:.1f} GiB are available"
    )
    return Gauge(recipe, checkpoint, make_twin, windows, scratch, has_room=way.is_whole), way


def model_shape(spec: DecoderSpec) -> ModelShape:
    """The dimensions that the manifest gives to runtimes."""
    return ModelShape(
        num_layers=spec.num_layers,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        vocab_size=spec.vocab_size,
    )
