"""What a step will take: memory and disk computed from the checkpoint's spec, time from what such steps took before.

Reads the headers of checkpoints, no weights. What cannot be known before a download is None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from runtime.package.manifest import ORT_GRAPH
from runtime.package.plan_sidecar import TRT_GRAPH, graph_bytes

from export.errors import ExportError
from export.pipeline.cache import Stored
from export.pipeline.measuring_steps import BenchStep
from export.pipeline.schedule import Load
from export.pipeline.steps import Done, FetchStep, PackageStep, PlaceStep, PlanStep, Step, package_of
from export.plan.estimate import estimate_build
from export.source.recipe import Recipe, WheelSource

if TYPE_CHECKING:
    from export.checkpoint.checkpoint import Checkpoint
    from export.measure.memory import TextSize

_MIB = 2**20
_PROCESS_BYTES = 200 * _MIB
"""Python with what fetching and copying import, and the blocks that they hold."""

_WINDOW = 512


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes of memory at the peak and of disk afterwards, and seconds. None is unknown."""

    memory_bytes: int | None
    disk_bytes: int | None
    seconds: float | None

    def load(self, step: Step) -> Load:
        """For the schedule; a step whose time is unknown counts as a minute."""
        return Load(step.name, step.needs, 60.0 if self.seconds is None else self.seconds, self.memory_bytes)


class CostBook:
    """Costs of steps, learned from the entries of a cache."""

    def __init__(self, entries: Iterable[Stored], budget_bytes: int) -> None:
        self._entries = [stored.entry for stored in entries]
        self._budget_bytes = budget_bytes
        self._headers: dict[str, Headers] = {}

    def cost(self, step: Step, done: Done) -> Cost:
        """What ``step`` will take, as far as is known when its needs in ``done`` are there."""
        memory, disk = self._sizes(step, done)
        return Cost(memory, disk, self._seconds(step, disk))

    def _seconds(self, step: Step, disk: int | None) -> float | None:
        """As long as the last one of that name, else as long per byte as most of its kind."""
        own = [one for one in self._entries if (one.kind, one.label) == (step.kind, step.label)]
        if own:
            return max(own, key=lambda one: one.created_unix).seconds
        rates = [one.seconds / one.size_bytes for one in self._entries if one.kind == step.kind and one.size_bytes]
        return median(rates) * disk if rates and disk else None

    def _sizes(self, step: Step, done: Done) -> tuple[int | None, int | None]:
        match step:
            case FetchStep():
                size = step.recipe.source.size if isinstance(step.recipe.source, WheelSource) else 0
                return _PROCESS_BYTES, size
            case PackageStep():
                source = done.get(step.needs[0])
                return (None, None) if source is None else self._package(step.recipe, source)
            case PlanStep():
                package = done.get(step.needs[0])
                return (None, None) if package is None else _plan(package)
            case PlaceStep():
                return _PROCESS_BYTES, _placed_bytes(step, done)
            case BenchStep():
                return None, 0  # alone on the machine, or its figures are those of its neighbours
            case _:
                package = done.get(step.needs[0])
                weights = None if package is None else package.entry.size_bytes
                return (None if weights is None else _PROCESS_BYTES + 3 * weights), 0

    def _package(self, recipe: Recipe, source: Stored) -> tuple[int | None, int | None]:
        """The build is told how much memory it may use, and measures layer by layer in as little as it can."""
        try:
            key = source.entry.key
            if key not in self._headers:  # which takes half a second, and a build asks several times for each package
                self._headers[key] = Headers(open_headers(source.folder / source.entry.facts["checkpoint"]))
            return _package_sizes(recipe, self._headers[key], self._budget_bytes)
        except ExportError:
            return None, None  # its own process says what is wrong with it


def open_headers(path: Path) -> Checkpoint:
    """A checkpoint that was fetched, without asking for its digest again. Raises SourceError."""
    from export.source.gguf.checkpoint import GgufCheckpoint
    from export.source.hf.checkpoint import HfCheckpoint

    return HfCheckpoint(path) if path.is_dir() else GgufCheckpoint(path)


class Headers:
    """What a package's size follows from, of a checkpoint that is closed again. Raises ExportError."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        from export.checkpoint.quantized_tensor import stored_formats

        self.spec, self.kept = checkpoint.spec, stored_formats(checkpoint)
        self._tokenizer = checkpoint.text_files().tokenizer_json
        self._sizes: dict[tuple[str, int], TextSize] = {}

    def quality_text(self, max_model_len: int) -> TextSize:
        """Of the texts that a quality report is of."""
        from export.measure.quality import text_windows

        return self._size("quality", max_model_len, lambda: text_windows(self._tokenizer, min(_WINDOW, max_model_len)))

    def golden_text(self, max_model_len: int) -> TextSize:
        """Of the texts that golden rows are of."""
        from export.measure.golden import golden_texts

        return self._size(
            "golden", max_model_len, lambda: golden_texts(self._tokenizer, self.spec.vocab_size, max_model_len)
        )

    def _size(self, name: str, max_model_len: int, texts: Callable[[], Iterable[Sized]]) -> TextSize:
        from export.measure.memory import TextSize

        if (name, max_model_len) not in self._sizes:
            lengths = [len(text) for text in texts()]
            self._sizes[name, max_model_len] = TextSize(sum(lengths), max(lengths))
        return self._sizes[name, max_model_len]


def _package_sizes(recipe: Recipe, headers: Headers, budget_bytes: int) -> tuple[int, int]:
    """Memory and disk of a build: of writing, or of measuring in one graph or layer by layer, whichever fits."""
    # Imported here, since a build with nothing to do asks for no cost.
    from export.checkpoint.explain import estimate, trt_graph_bytes
    from export.checkpoint.precision_policy import is_measured, plan_keeping
    from export.measure.memory import golden_way, layerwise_way, whole_way
    from export.package.builder import chosen_max_model_len, is_for_gpus

    spec, length = headers.spec, chosen_max_model_len(recipe, headers.spec)
    plan = plan_keeping(recipe.precision, recipe.block, headers.kept)
    costs = estimate(spec, plan, length)
    memory, disk = costs.build_bytes, costs.graph_bytes
    if is_measured(
        recipe.precision,
        plan,
        has_limit=recipe.quality is not None,
        int8_cache=recipe.kv_cache == "int8",
        emulated=ORT_GRAPH not in recipe.dialects,
    ):
        text = headers.quality_text(length)
        whole, layers = (way(spec, plan, length, text).memory_bytes for way in (whole_way, layerwise_way))
        memory = max(memory, whole if whole <= budget_bytes else layers)
    if is_for_gpus(recipe):
        memory = max(memory, golden_way(spec, length, headers.golden_text(length), budget_bytes).memory_bytes)
    if TRT_GRAPH in recipe.dialects:
        disk += trt_graph_bytes(spec, plan, length)
    return memory, disk


def _placed_bytes(step: PlaceStep, done: Done) -> int | None:
    if any(name not in done for name in step.needs):
        return None
    parts = [done[name].entry.size_bytes for name in (step.package, *step.plans.values())]
    return 0 if step.missing(done) == ["the manifest"] else sum(parts)


def _plan(package: Stored) -> tuple[int, int]:
    costs = estimate_build(graph_bytes(package_of(package)))
    return costs.memory_bytes, costs.disk_bytes
