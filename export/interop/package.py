"""A folder with somebody else's graph -> a package: texts, graph, a copy of the weights, and a manifest.

The weights stay as they came, so there is no quality report: nothing is known that they could be compared with.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from importlib import metadata
from pathlib import Path

import onnx
from runtime.package import manifest as package

from export.checkpoint.checkpoint import TextFiles
from export.errors import ExportError, RecipeError
from export.graph.writer import GRAPH_FILE
from export.interop.foreign_graph import ForeignGraph, read_foreign_graph
from export.interop.self_check import check_cache
from export.interop.source_folder import SUBFOLDER, SourceFolder, read_source_folder
from export.package.builder import DEFAULT_MAX_MODEL_LEN, BuildResult, up_to_date
from export.package.chat_template import with_chosen_template
from export.package.replace import put_in_place
from export.package.text_check import check_text_files
from export.package.workspace import recorded_files, workspace, write_text_files
from export.progress import Reporter
from export.provenance.files import add_provenance
from export.source.fingerprint import stat_fingerprint
from export.source.hf.text import text_files_from_folder
from export.source.opener import folder_digest, license_text, source_folder, source_revision
from export.source.recipe import Recipe

_DEFAULT_CONTEXT = 2048
_ABOUT_WEIGHTS = ("precision", "block", "kv_cache", "dialects", "pinned", "adapter", "lora")
_TOOLS = ("powertrain", "onnx", "tokenizers")


def build_foreign_package(recipe: Recipe, base: Path, root: Path, reporter: Reporter) -> BuildResult:
    """Build ``recipe``, of a folder with a graph, into ``root`` unless an equal package is there.

    ``base`` is what relative paths count from. Raises ExportError, with what is at fault by name, for a graph that no
    session here runs; whatever stood at ``root`` before then still stands.
    """
    folder = source_folder(recipe, base, reporter)
    digest = recipe.digest(f"foreign graph {stat_fingerprint(recipe, base)} {_below(folder)}")
    existing = up_to_date(root, digest)
    if existing is not None:
        return BuildResult(root, existing, was_up_to_date=True)
    started = time.perf_counter()
    _check_recipe(recipe)
    with workspace(root) as partial:
        source = read_source_folder(folder)
        graph = read_foreign_graph(source.graph, source.names, source.sizes)
        max_model_len = _max_model_len(recipe, source, graph)
        text = _texts(recipe, base, folder, source, graph.shape.vocab_size)
        check_text_files(text, graph.shape.vocab_size)
        write_text_files(partial, text, recipe.generation)
        if (text_of_license := license_text(folder)) is not None:
            (partial / package.LICENSE_FILE).write_text(text_of_license, encoding="utf-8")
        with reporter.stage("Copying the graph", 1):
            info = _write_graph(graph, partial, source.writer)
        files = [*source.configs, source.graph, *graph.data_files]
        manifest = package.Manifest(
            schema_version=package.SCHEMA_VERSION,
            name=recipe.name,
            served_names=recipe.served_names or (recipe.name,),
            source=package.SourceInfo(
                kind=package.ONNX_SOURCE,
                name=folder.name,
                sha256=folder_digest(files),
                license=recipe.license,
                revision=source_revision(recipe, folder),
            ),
            architecture=source.architecture,
            spec={},
            shape=graph.shape,
            max_model_len=max_model_len,
            stop_token_ids=text.stop_token_ids,
            special_tokens=text.special_tokens,
            graphs={graph.kind: info},
            quality=None,
            recipe_digest=digest,
            recipe=recipe.settings(),
            files=recorded_files(partial),
            tools={name: metadata.version(name) for name in _TOOLS},
            build_seconds=round(time.perf_counter() - started, 3),
            created_unix=int(time.time()),
        )
        with reporter.stage("Checking its cache", 1):
            check_cache(package.Package(partial, manifest))
        manifest = add_provenance(partial, manifest)
        package.write_manifest(partial, manifest)
        put_in_place(partial, root)
    return BuildResult(root, manifest, was_up_to_date=False)


def _below(folder: Path) -> str:
    """Changes when a graph one folder further down does: names, sizes and times, as in ``stat_fingerprint``."""
    known = [(path.name, path.stat()) for path in sorted((folder / SUBFOLDER).glob("*")) if path.is_file()]
    return " ".join(f"{name}:{stat.st_size}:{stat.st_mtime_ns}" for name, stat in known)


def _check_recipe(recipe: Recipe) -> None:
    """Raise RecipeError for what a recipe says of weights that are as they are."""
    usual = Recipe(name=recipe.name, source=recipe.source)
    asked = [name for name in _ABOUT_WEIGHTS if getattr(recipe, name) != getattr(usual, name)]
    if asked:
        raise RecipeError(
            f"{', '.join(asked)}: a graph that others wrote stays as it is; leave that out, or export the "
            "checkpoint that it was made of"
        )


def _max_model_len(recipe: Recipe, source: SourceFolder, graph: ForeignGraph) -> int:
    known = [length for length in (source.context, graph.positions) if length is not None]
    limit = min(known, default=_DEFAULT_CONTEXT)
    wanted = recipe.max_model_len or min(limit, DEFAULT_MAX_MODEL_LEN)
    if wanted > limit:
        raise ExportError(f"max_model_len is {wanted}, the graph was made for {limit} tokens")
    return wanted


def _texts(recipe: Recipe, base: Path, folder: Path, source: SourceFolder, vocab_size: int) -> TextFiles:
    """The folder's own texts, what its configuration adds to them, and the recipe's template."""
    text = text_files_from_folder(folder, vocab_size)
    text = dataclasses.replace(
        text,
        stop_token_ids=tuple(sorted({*text.stop_token_ids, *source.stop_token_ids})),
        generation={**source.sampling, **text.generation},
    )
    return with_chosen_template(text, recipe, base)


def _write_graph(graph: ForeignGraph, partial: Path, writer: str) -> package.GraphInfo:
    """The graph and its weights below ``partial``, and the manifest's entry for them."""
    folder = partial / graph.kind
    folder.mkdir()
    for file in graph.data_files:
        shutil.copyfile(file, folder / file.name)
    (folder / GRAPH_FILE).write_bytes(graph.model.SerializeToString())
    return package.GraphInfo(
        path=f"{folder.name}/{GRAPH_FILE}",
        kv_dtype="float32",
        providers=("cpu",),
        precision={"weights": f"as {writer} wrote them{_bits(graph.model)}"},
        weight_bytes=sum(path.stat().st_size for path in folder.iterdir()),
        num_nodes=len(graph.model.graph.node),
    )


def _bits(model: onnx.ModelProto) -> str:
    found = {
        a.i for node in model.graph.node if node.op_type == "MatMulNBits" for a in node.attribute if a.name == "bits"
    }
    return f", matrices at {' and '.join(map(str, sorted(found)))} bits" if found else ""
