"""Recipe -> package folder. Orchestrates fetch, checkpoint, graph, text files, quality and manifest, in that order.

Everything is built in a temporary folder beside the target and renamed when whole; the manifest is written last.
What a killed build leaves is never taken for a package and is removed by the next one.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from runtime import manifest as package
from runtime.engine_sidecar import TRT_GRAPH
from runtime.errors import PackageError

from export.checkpoint import Checkpoint, TextFiles, check_shapes
from export.decoder import emit_decoder
from export.errors import ExportError
from export.graph_writer import GRAPH_FILE, GraphWriter
from export.ort_dialect import OPSET, OrtDialect
from export.precision import PrecisionPlan, WeightFormat, plan_from_name
from export.progress import Reporter, SilentReporter
from export.quality import WINDOW_TOKENS, check_quality, measure_quality, text_windows
from export.recipe import Recipe
from export.sources import OpenedSource, open_source, stat_fingerprint
from export.spec import DecoderSpec
from export.trt_graph import write_trt_graph

DEFAULT_MAX_MODEL_LEN = 8192

_REFERENCE_FOLDER = "float32"


@dataclass(frozen=True, slots=True)
class BuildResult:
    """The package's folder and manifest, and whether it was there already."""

    root: Path
    manifest: package.Manifest
    was_up_to_date: bool


def build_package(recipe: Recipe, base: Path, root: Path, reporter: Reporter) -> BuildResult:
    """Build ``recipe`` into ``root`` unless an equal package is there. ``base`` is what relative paths count from.

    Raises ExportError; whatever stood at ``root`` before then still stands.
    """
    digest = recipe.digest(stat_fingerprint(recipe, base))
    existing = up_to_date(root, digest)
    if existing is not None:
        return BuildResult(root, existing, was_up_to_date=True)
    plan = plan_from_name(recipe.precision, recipe.block)
    started = time.perf_counter()
    with _workspace(root) as partial:
        source = open_source(recipe, base, reporter)
        info = _fill(recipe, plan, source.checkpoint, partial, reporter)
        if source.license_text is not None:
            (partial / package.LICENSE_FILE).write_text(source.license_text, encoding="utf-8")
        seconds = time.perf_counter() - started
        manifest = _manifest(recipe, digest=digest, source=source, filled=info, partial=partial, seconds=seconds)
        package.write_manifest(partial, manifest)
        _replace(partial, root)
    return BuildResult(root, manifest, was_up_to_date=False)


def up_to_date(root: Path, digest: str) -> package.Manifest | None:
    """The manifest of ``root`` if it is a whole package of that digest, judged by sizes."""
    try:
        found = package.load_package(root, verify_digests=False).manifest
    except PackageError:
        return None
    return found if found.recipe_digest == digest else None


@dataclass(frozen=True, slots=True)
class _Filled:
    graphs: dict[str, package.GraphInfo]
    text: TextFiles
    quality: package.Quality | None
    max_model_len: int


def _fill(recipe: Recipe, plan: PrecisionPlan, checkpoint: Checkpoint, partial: Path, reporter: Reporter) -> _Filled:
    """Everything but the manifest."""
    spec = checkpoint.spec
    check_shapes(checkpoint)
    max_model_len = recipe.max_model_len or min(spec.max_positions, DEFAULT_MAX_MODEL_LEN)
    if max_model_len > spec.max_positions:
        raise ExportError(f"max_model_len is {max_model_len}, the model was made for {spec.max_positions} tokens")
    text = checkpoint.text_files()
    _write_text_files(partial, text)
    graphs = {
        package.ORT_GRAPH: write_ort_graph(checkpoint, plan, max_model_len, partial / package.ORT_GRAPH, reporter)
    }
    if TRT_GRAPH in recipe.dialects:
        graphs[TRT_GRAPH] = write_trt_graph(checkpoint, plan, max_model_len, partial / TRT_GRAPH, reporter)
    quality = _measure(
        recipe, plan, checkpoint=checkpoint, max_model_len=max_model_len, partial=partial, reporter=reporter
    )
    return _Filled(graphs, text, quality, max_model_len)


def write_ort_graph(
    checkpoint: Checkpoint, plan: PrecisionPlan, max_model_len: int, folder: Path, reporter: Reporter
) -> package.GraphInfo:
    """The ``ort`` graph of a checkpoint in ``folder``, and its entry for the manifest."""
    title = f"Writing the {package.ORT_GRAPH} graph"
    with reporter.stage(title, checkpoint.spec.num_layers + 1) as advance, GraphWriter(folder) as writer:
        dialect = OrtDialect(checkpoint.spec, writer, plan, max_model_len)
        emit_decoder(checkpoint, dialect, lambda: advance(1))
        writer.save(OPSET)
        return package.GraphInfo(
            path=f"{folder.name}/{GRAPH_FILE}",
            kv_dtype=plan.float_type,
            providers=("cpu", "cuda"),
            precision=dialect.precision(),
            weight_bytes=dialect.weight_bytes,
            num_nodes=writer.num_nodes,
        )


def _measure(
    recipe: Recipe,
    plan: PrecisionPlan,
    *,
    checkpoint: Checkpoint,
    max_model_len: int,
    partial: Path,
    reporter: Reporter,
) -> package.Quality | None:
    """The quality report, against a float32 graph that lives only as long as this takes. Raises QualityError."""
    exact = PrecisionPlan(WeightFormat())
    if recipe.quality is None or plan == exact:
        return None
    reference = partial / _REFERENCE_FOLDER
    write_ort_graph(checkpoint, exact, max_model_len, reference, SilentReporter())
    tokenizer_json = (partial / package.TOKENIZER_FILE).read_text(encoding="utf-8")
    quality = measure_quality(
        reference / GRAPH_FILE,
        partial / package.ORT_GRAPH / GRAPH_FILE,
        windows=list(text_windows(tokenizer_json, min(WINDOW_TOKENS, max_model_len))),
        shape=_model_shape(checkpoint.spec),
        max_mean_kl=recipe.quality.max_mean_kl,
        reporter=reporter,
    )
    shutil.rmtree(reference)
    check_quality(quality, recipe.name)
    return quality


def _model_shape(spec: DecoderSpec) -> package.ModelShape:
    return package.ModelShape(
        num_layers=spec.num_layers,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        vocab_size=spec.vocab_size,
    )


def _write_text_files(partial: Path, text: TextFiles) -> None:
    (partial / package.TOKENIZER_FILE).write_text(text.tokenizer_json, encoding="utf-8")
    if text.chat_template is not None:
        (partial / package.CHAT_TEMPLATE_FILE).write_text(text.chat_template, encoding="utf-8")
    generation = {**text.generation, "eos_token_id": list(text.stop_token_ids)}
    (partial / package.GENERATION_CONFIG_FILE).write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")


def _manifest(
    recipe: Recipe, *, digest: str, source: OpenedSource, filled: _Filled, partial: Path, seconds: float
) -> package.Manifest:
    spec = source.checkpoint.spec
    names = sorted(path.relative_to(partial).as_posix() for path in partial.rglob("*") if path.is_file())
    return package.Manifest(
        schema_version=package.SCHEMA_VERSION,
        name=recipe.name,
        served_names=recipe.served_names or (recipe.name,),
        source=source.info,
        architecture=spec.architecture,
        spec=asdict(spec),
        shape=_model_shape(spec),
        max_model_len=filled.max_model_len,
        stop_token_ids=filled.text.stop_token_ids,
        special_tokens=filled.text.special_tokens,
        graphs=filled.graphs,
        quality=filled.quality,
        recipe_digest=digest,
        files={name: package.file_info(partial / name) for name in names},
        tools={name: metadata.version(name) for name in ("powertrain", "onnx", "numpy", "gguf", "tokenizers")},
        build_seconds=round(seconds, 3),
        created_unix=int(time.time()),
    )


@contextmanager
def _workspace(root: Path) -> Iterator[Path]:
    """A fresh folder ``.NAME.partial`` beside ``root``, held by a lock, gone afterwards unless renamed."""
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        lock = (root.parent / f".{root.name}.lock").open("wb")
    except OSError as error:
        raise ExportError(
            f"{root.parent}: cannot be written to ({error.strerror}); choose another folder with -o"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ExportError(f"another export is building {root.name} right now; wait for it") from error
        partial = root.parent / f".{root.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
            yield partial
        except OSError as error:
            raise ExportError(
                f"cannot write {root.name}: {error.strerror}; free some space or choose another folder"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            Path(lock.name).unlink(missing_ok=True)


def _replace(partial: Path, root: Path) -> None:
    """Put the finished folder in place; a package that it replaces is gone only after that."""
    old = root.parent / f".{root.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if root.exists():
        if any(root.iterdir()) and not (root / package.MANIFEST_FILE).is_file():
            raise ExportError(f"{root} holds other files than a package; choose another folder with -o, or empty it")
        root.rename(old)
    partial.rename(root)
    _sync_folder(root.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
