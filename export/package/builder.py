"""Recipe -> package folder. Orchestrates fetch, checkpoint, graph, text files, quality and manifest, in that order.

Everything is built in a temporary folder beside the target and renamed when whole; the manifest is written last.
What a killed build leaves is never taken for a package and is removed by the next one.
"""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import msgspec
from runtime.errors import PackageError
from runtime.package import manifest as package
from runtime.package.adapter_room import AdapterRoom
from runtime.package.plan_sidecar import TRT_GRAPH
from runtime.session.kv_budget import available_memory_bytes

from export.checkpoint.checkpoint import TextFiles, check_shapes
from export.checkpoint.explain import estimate, trt_graph_bytes
from export.checkpoint.precision import PrecisionPlan
from export.checkpoint.precision_policy import (
    MEASURED,
    check_dialects,
    check_precision,
    is_measured,
    is_reported,
    plan_from_name,
    plan_keeping,
    trt_plan,
)
from export.checkpoint.quantized_tensor import stored_formats
from export.checkpoint.spec import DecoderSpec
from export.errors import ExportError
from export.graph.adapter_room import adapter_room
from export.graph.kv_scales import KvScales
from export.graph.ort.graph import write_ort_graph
from export.graph.trt.graph import write_trt_graph
from export.graph.trt.stored import StoredCheckpoint
from export.graph.writer import GRAPH_FILE
from export.measure.folded import FoldedCheckpoint
from export.measure.gauge import Choice, model_shape, prepare_gauge
from export.measure.golden import GoldenMaker
from export.package.chat_template import with_chosen_template
from export.package.replace import put_in_place
from export.package.text_check import check_text_files
from export.package.workspace import check_space, recorded_files, workspace, write_head, write_text_files
from export.progress import Reporter
from export.provenance.files import add_provenance
from export.source.fingerprint import stat_fingerprint
from export.source.opener import OpenedSource, open_source
from export.source.recipe import Recipe

DEFAULT_MAX_MODEL_LEN = 8192

_LIBRARIES = ("powertrain", "onnx", "numpy", "ml-dtypes", "gguf", "safetensors", "tokenizers")
_SCRATCH_FOLDER = "scratch"


@dataclass(frozen=True, slots=True)
class BuildResult:
    """The package's folder and manifest, whether it was there already, and what would pin a choice that was made."""

    root: Path
    manifest: package.Manifest
    was_up_to_date: bool
    pin_text: str = ""


def build_package(
    recipe: Recipe,
    base: Path,
    root: Path,
    reporter: Reporter,
    available_bytes: int | None = None,
    *,
    remeasure: bool = False,
) -> BuildResult:
    """Build ``recipe`` into ``root`` unless an equal package is there. ``base`` is what relative paths count from.

    ``available_bytes`` of memory decide how quality is measured; None: ask Linux. ``remeasure`` builds in any case and
    passes over what the recipe pins. Raises ExportError; whatever stood at ``root`` before then still stands.
    """
    digest = recipe.digest(stat_fingerprint(recipe, base))
    existing = up_to_date(root, digest)
    is_whole = existing is not None and (bool(existing.golden and existing.selection) or not is_for_gpus(recipe))
    if existing is not None and is_whole and not remeasure:
        return BuildResult(root, existing, was_up_to_date=True)
    check_precision(recipe.precision, recipe.block, has_limit=recipe.quality is not None)
    check_dialects(recipe.precision, recipe.dialects, int8_cache=recipe.kv_cache == "int8")
    if remeasure and recipe.precision not in MEASURED:
        raise ExportError(f"precision {recipe.precision!r} chooses nothing by measurement; {' and '.join(MEASURED)} do")
    started = time.perf_counter()
    with workspace(root) as partial:
        source = open_source(recipe, base, reporter)
        asked = msgspec.structs.replace(recipe, pinned=None) if remeasure else recipe
        info = _fill(asked, source, partial, reporter, base=base, available_bytes=available_bytes)
        if source.license_text is not None:
            (partial / package.LICENSE_FILE).write_text(source.license_text, encoding="utf-8")
        seconds = time.perf_counter() - started
        manifest = _manifest(recipe, digest=digest, source=source, filled=info, partial=partial, seconds=seconds)
        manifest = add_provenance(partial, manifest)
        package.write_manifest(partial, manifest)
        put_in_place(partial, root)
    return BuildResult(root, manifest, was_up_to_date=False, pin_text=info.pin_text)


def up_to_date(root: Path, digest: str) -> package.Manifest | None:
    """The manifest of ``root`` if it is a whole package of that digest, judged by sizes."""
    try:
        found = package.load_package(root, verify_digests=False).manifest
    except PackageError:
        return None
    return found if found.recipe_digest == digest else None


def is_for_gpus(recipe: Recipe) -> bool:
    """Whether a GPU may run the package, which then gets golden rows and a selection head: one with a ``trt`` graph, or
    in half precision."""
    return TRT_GRAPH in recipe.dialects or plan_from_name(recipe.precision, recipe.block).float_type != "float32"


@dataclass(frozen=True, slots=True)
class _Filled:
    graphs: dict[str, package.GraphInfo]
    text: TextFiles
    quality: package.Quality | None
    max_model_len: int
    golden: package.GoldenInfo | None
    selection: package.SelectionInfo | None
    pin_text: str
    room: AdapterRoom | None


def chosen_max_model_len(recipe: Recipe, spec: DecoderSpec) -> int:
    """The recipe's context length, else the model's up to 8192. Raises ExportError above the model's."""
    wanted = recipe.max_model_len or min(spec.max_positions, DEFAULT_MAX_MODEL_LEN)
    if wanted > spec.max_positions:
        raise ExportError(f"max_model_len is {wanted}, the model was made for {spec.max_positions} tokens")
    return wanted


def _fill(
    recipe: Recipe, source: OpenedSource, partial: Path, reporter: Reporter, *, base: Path, available_bytes: int | None
) -> _Filled:
    """Everything but the manifest. What can be refused is refused before anything is written."""
    checkpoint = source.checkpoint
    check_shapes(checkpoint)
    max_model_len = chosen_max_model_len(recipe, checkpoint.spec)
    text = with_chosen_template(checkpoint.text_files(), recipe, base)
    check_text_files(text, checkpoint.spec.vocab_size)
    kept = stored_formats(checkpoint)
    plan = plan_keeping(recipe.precision, recipe.block, kept)
    notes = {"as in the checkpoint": f"codes and scales of {len(kept)} matrices"} if kept else {}
    scratch, int8_cache = partial / _SCRATCH_FOLDER, recipe.kv_cache == "int8"
    has_limit, emulated = recipe.quality is not None, package.ORT_GRAPH not in recipe.dialects
    gauge, scratch_bytes = None, 0
    if is_measured(recipe.precision, plan, has_limit=has_limit, int8_cache=int8_cache, emulated=emulated):
        gauge, way = prepare_gauge(
            recipe,
            checkpoint,
            plan,
            max_model_len,
            tokenizer_json=text.tokenizer_json,
            scratch=scratch,
            reporter=reporter,
            available_bytes=available_bytes,
        )
        scratch_bytes = way.scratch_bytes
    maker = _golden_maker(recipe, checkpoint.spec, max_model_len, text.tokenizer_json, available_bytes)
    golden_bytes = maker.way.scratch_bytes if maker else 0
    check_space(
        partial, _needed_bytes(recipe, checkpoint.spec, plan, max_model_len, scratch=scratch_bytes, golden=golden_bytes)
    )
    write_text_files(partial, text, recipe.generation)
    room = None if recipe.lora is None else adapter_room(checkpoint, recipe.lora.rank, recipe.lora.roles)
    choice = Choice(checkpoint, plan, notes)
    if gauge and recipe.precision in MEASURED:
        choice = gauge.choose(source.weights_sha256, reporter)
    graphs = {}
    if not emulated:
        kv_scales = choice.scaled(gauge.kv_scales(reporter)) if gauge and int8_cache else None
        folder = partial / package.ORT_GRAPH
        graphs[package.ORT_GRAPH] = _ort_graph(choice, max_model_len, folder, reporter, kv_scales=kv_scales, room=room)
    quality = None
    if gauge and is_reported(choice.plan, has_limit=has_limit, int8_cache=int8_cache, emulated=emulated):
        stored = StoredCheckpoint(checkpoint, trt_plan(choice.plan))
        quality = gauge.emulate(stored, reporter) if emulated else gauge.measure(folder / GRAPH_FILE, reporter)
    shutil.rmtree(scratch, ignore_errors=True)
    if TRT_GRAPH in recipe.dialects:
        graph = write_trt_graph(checkpoint, choice.plan, max_model_len, partial / TRT_GRAPH, reporter)
        graphs[TRT_GRAPH] = _with_notes(graph, choice) if emulated else graph
    golden = selection = None
    if maker is not None:
        golden = maker.write(checkpoint, trt_plan(choice.plan), partial, scratch, reporter)
        selection = write_head(partial, checkpoint.spec.vocab_size)
    return _Filled(graphs, text, quality, max_model_len, golden, selection, choice.pin_text, room)


def _ort_graph(
    choice: Choice,
    max_model_len: int,
    folder: Path,
    reporter: Reporter,
    *,
    kv_scales: KvScales | None,
    room: AdapterRoom | None,
) -> package.GraphInfo:
    graph = write_ort_graph(
        choice.checkpoint, choice.plan, max_model_len, folder, reporter, kv_scales=kv_scales, room=room
    )
    if room is not None and isinstance(choice.checkpoint, FoldedCheckpoint):
        choice.checkpoint.write_factors(folder.parent, room)
    return _with_notes(graph, choice)


def _with_notes(graph: package.GraphInfo, choice: Choice) -> package.GraphInfo:
    """What the manifest says of a graph, with what was chosen for it."""
    return msgspec.structs.replace(graph, precision=graph.precision | choice.notes)


def _golden_maker(
    recipe: Recipe, spec: DecoderSpec, max_model_len: int, tokenizer_json: str, available_bytes: int | None
) -> GoldenMaker | None:
    """What makes the golden rows, if a GPU may run the package."""
    if not is_for_gpus(recipe):
        return None
    available = available_memory_bytes() if available_bytes is None else available_bytes
    return GoldenMaker(spec, max_model_len, tokenizer_json, available)


def _needed_bytes(
    recipe: Recipe, spec: DecoderSpec, plan: PrecisionPlan, max_model_len: int, *, scratch: int, golden: int
) -> int:
    """Disk that a build takes at its peak: the ``ort`` graph, if one is asked for, beside the scratch folder, then
    beside the ``trt`` graph and what golden rows are computed with.

    Graphs that a measured precision tries out lie in the scratch folder and are at most as large as the ``ort`` graph.
    """
    trt = trt_graph_bytes(spec, plan, max_model_len) if TRT_GRAPH in recipe.dialects else 0
    ort = estimate(spec, plan, max_model_len).graph_bytes if package.ORT_GRAPH in recipe.dialects else 0
    return ort + max(scratch, trt + golden)


def _manifest(
    recipe: Recipe, *, digest: str, source: OpenedSource, filled: _Filled, partial: Path, seconds: float
) -> package.Manifest:
    spec = source.checkpoint.spec
    return package.Manifest(
        schema_version=package.SCHEMA_VERSION,
        name=recipe.name,
        served_names=recipe.served_names or (recipe.name,),
        source=source.info,
        architecture=spec.architecture,
        spec=asdict(spec),
        shape=model_shape(spec),
        max_model_len=filled.max_model_len,
        stop_token_ids=filled.text.stop_token_ids,
        special_tokens=filled.text.special_tokens,
        graphs=filled.graphs,
        quality=filled.quality,
        golden=filled.golden,
        adapters=msgspec.UNSET if filled.room is None else filled.room,
        selection=filled.selection,
        recipe_digest=digest,
        recipe=recipe.settings(),
        files=recorded_files(partial),
        tools=_tools(),
        build_seconds=round(seconds, 3),
        created_unix=int(time.time()),
    )


def _tools() -> dict[str, str]:
    """Versions of what decides bytes here; ONNX Runtime, which measures quality, in whichever distribution it came."""
    found = {name: metadata.version(name) for name in _LIBRARIES}
    for name in ("onnxruntime", "onnxruntime-gpu"):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
