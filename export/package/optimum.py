"""Packages of architectures that only Optimum knows: its exporter runs in a Python of its own, which has torch.

Owns that call and what is read off the graph that comes out: a float32 graph with a cache that grows, under
``optimum/``. Only safetensors are handed over, no remote code is allowed, and nothing here imports torch.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from runtime.package import graph_io
from runtime.package import manifest as package

from export.checkpoint.checkpoint import TextFiles
from export.errors import ExportError, SourceError, UnsupportedError
from export.graph.writer import GRAPH_FILE
from export.package.builder import DEFAULT_MAX_MODEL_LEN, BuildResult, up_to_date
from export.package.chat_template import with_chosen_template
from export.package.replace import put_in_place
from export.package.text_check import check_text_files
from export.package.workspace import recorded_files, workspace, write_text_files
from export.progress import Reporter
from export.provenance.files import add_provenance
from export.source.fingerprint import stat_fingerprint
from export.source.hf.checkpoint import INDEX_FILE, SINGLE_FILE
from export.source.hf.folder_file import inside
from export.source.hf.json_object import JsonObject, read_json_object
from export.source.hf.text import text_files_from_folder
from export.source.opener import folder_digest, source_folder, source_revision
from export.source.recipe import Recipe

FIXED_INPUTS = frozenset({graph_io.INPUT_IDS, "attention_mask", "position_ids"})

_LENGTH_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
_DEFAULT_LENGTH = 2048
_ERROR_LINES = 3


def build_optimum_package(
    recipe: Recipe, base: Path, root: Path, reporter: Reporter, python: str | None = None
) -> BuildResult:
    """Build ``recipe`` (of a folder or a hub repository) into ``root`` with the Optimum of interpreter ``python``.

    Raises ExportError, with Optimum's own words where it fails; whatever stood at ``root`` before then still stands.
    """
    if recipe.adapter is not None or recipe.lora is not None:
        raise UnsupportedError("adapters are merged, and room for them is made, by the native exporter alone")
    digest = recipe.digest("via optimum " + stat_fingerprint(recipe, base))
    existing = up_to_date(root, digest)
    if existing is not None:
        return BuildResult(root, existing, was_up_to_date=True)
    started = time.perf_counter()
    interpreter = python or sys.executable
    _check_optimum(interpreter)
    folder = source_folder(recipe, base, reporter)
    with workspace(root) as partial:
        graph_folder = partial / package.OPTIMUM_GRAPH
        with reporter.stage("Exporting with Optimum", 1):
            _run_optimum(interpreter, folder, graph_folder)
        graph, shape = _read_graph(graph_folder)
        text = with_chosen_template(_text_files(folder, graph_folder, shape.vocab_size), recipe, base)
        check_text_files(text, shape.vocab_size)
        write_text_files(partial, text)
        config = read_json_object(inside(folder, "config.json"))
        manifest = package.Manifest(
            schema_version=package.SCHEMA_VERSION,
            name=recipe.name,
            served_names=recipe.served_names or (recipe.name,),
            source=package.SourceInfo(
                kind="safetensors",
                name=folder.name,
                sha256=folder_digest(_source_files(folder)),
                license=recipe.license,
                revision=source_revision(recipe, folder),
            ),
            architecture=config.text("model_type") or "unknown",
            spec={},
            shape=shape,
            max_model_len=_max_model_len(recipe, config),
            stop_token_ids=text.stop_token_ids,
            special_tokens=text.special_tokens,
            graphs={package.OPTIMUM_GRAPH: graph},
            quality=None,
            recipe_digest=digest,
            recipe=recipe.settings(),
            files=recorded_files(partial),
            tools=_tools(interpreter),
            build_seconds=round(time.perf_counter() - started, 3),
            created_unix=int(time.time()),
        )
        manifest = add_provenance(partial, manifest)
        package.write_manifest(partial, manifest)
        put_in_place(partial, root)
    return BuildResult(root, manifest, was_up_to_date=False)


def _check_optimum(python: str) -> None:
    try:
        found = subprocess.run([python, "-c", "import optimum.exporters.onnx"], capture_output=True, check=False)  # noqa: S603
    except OSError as error:
        raise ExportError(f"{python} cannot be run ({error.strerror}); name a Python that has Optimum") from error
    if found.returncode:
        raise ExportError(
            "this Python has no Optimum; make one that has, with 'python -m venv FOLDER' and 'FOLDER/bin/pip install "
            "optimum-onnx==0.1.0 torch onnx onnxruntime accelerate', and give --optimum-python FOLDER/bin/python"
        )


def _run_optimum(python: str, folder: Path, target: Path) -> None:
    """``optimum-cli export onnx``; only the graph and its data stay in ``target``."""
    if not (folder / SINGLE_FILE).is_file() and not (folder / INDEX_FILE).is_file():
        raise SourceError(f"{folder}: neither {SINGLE_FILE} nor {INDEX_FILE} is there; pickled weights are not loaded")
    for path in folder.iterdir():
        inside(folder, path.name)
    refuse_foreign_code(read_json_object(inside(folder, "config.json")).values)
    command = [python, "-m", "optimum.commands.optimum_cli", "export", "onnx", "--model", str(folder)]
    command += ["--task", "text-generation-with-past", "--device", "cpu", "--dtype", "fp32", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a fixed list, no shell
    if done.returncode or not (target / GRAPH_FILE).is_file():
        reason = " ".join(line.strip() for line in done.stderr.strip().splitlines()[-_ERROR_LINES:]) or "no message"
        raise UnsupportedError(f"Optimum could not export {folder.name}: {reason}")


def refuse_foreign_code(config: Mapping[str, Any]) -> None:
    """Raise SourceError when a config names code of another repository, as ``..._implementation: owner/name``, or
    allows remote code by itself.

    transformers before 5.3 fetches and runs the one, remote code allowed or not (CVE-2026-4372); before 5.5 some of its
    models obey the other (CVE-2026-5241).
    """
    pending: list[tuple[str, Any]] = list(config.items())
    while pending:
        key, value = pending.pop()
        if isinstance(value, Mapping):  # what lies under such a key counts as the key's
            outer = key if "_implementation" in key else ""
            pending += [(f"{outer}.{inner}", member) for inner, member in value.items()]
            continue
        names_code = "_implementation" in key and isinstance(value, str) and "/" in value
        allows_code = key.rpartition(".")[2] == "trust_remote_code" and bool(value)
        if names_code or allows_code:
            raise SourceError(f"config.json: {key.strip('.')} is {value!r:.100}; code of other repositories is not run")


def _text_files(folder: Path, graph_folder: Path, vocab_size: int) -> TextFiles:
    """The source's text files; its tokenizer.json may be one that transformers converted. Clears the rest away."""
    if not (folder / "tokenizer.json").is_file() and (graph_folder / "tokenizer.json").is_file():
        shutil.copy(folder / "config.json", graph_folder / "config.json")
        text = text_files_from_folder(graph_folder, vocab_size)
    else:
        text = text_files_from_folder(folder, vocab_size)
    for path in graph_folder.iterdir():
        if not path.name.startswith("model.onnx"):
            path.unlink()
    return text


def _read_graph(folder: Path) -> tuple[package.GraphInfo, package.ModelShape]:
    """The manifest's entries, off the graph's inputs. Raises UnsupportedError for inputs that no session can feed."""
    model = onnx.load(str(folder / GRAPH_FILE), load_external_data=False)
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in model.graph.input}
    num_layers = sum(name.endswith(".key") for name in shapes)
    pasts = [past for past, _ in graph_io.cache_names(num_layers)]
    if strange := set(shapes) - {*pasts} - FIXED_INPUTS:
        raise UnsupportedError(
            f"Optimum's graph wants the inputs {', '.join(sorted(strange))}, which nothing here feeds"
        )
    cache = shapes[pasts[0]] if pasts else []
    logits = {value.name: value for value in model.graph.output}.get(graph_io.LOGITS)
    if len(cache) != 4 or not cache[1] or not cache[3] or logits is None:
        raise UnsupportedError("Optimum's graph has no cache of fixed heads and head size, or no logits")
    vocab_size = logits.type.tensor_type.shape.dim[-1].dim_value
    shape = package.ModelShape(num_layers=num_layers, num_kv_heads=cache[1], head_dim=cache[3], vocab_size=vocab_size)
    graph = package.GraphInfo(
        path=f"{folder.name}/{GRAPH_FILE}",
        kv_dtype="float32",
        providers=("cpu",),
        precision={"all": "float32"},
        weight_bytes=sum(path.stat().st_size for path in folder.glob(GRAPH_FILE + "*")),
        num_nodes=len(model.graph.node),
    )
    return graph, shape


def _max_model_len(recipe: Recipe, config: JsonObject) -> int:
    limit = next((config.size(key) for key in _LENGTH_KEYS if key in config), _DEFAULT_LENGTH)
    wanted = recipe.max_model_len or min(limit, DEFAULT_MAX_MODEL_LEN)
    if wanted > limit:
        raise ExportError(f"max_model_len is {wanted}, the model was made for {limit} tokens")
    return wanted


def _source_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in {".safetensors", ".json", ".jinja"})


def _tools(python: str) -> dict[str, str]:
    """Versions of what wrote the graph, as that interpreter states them."""
    names: tuple[str, ...] = ("optimum", "optimum-onnx", "torch", "transformers", "onnx")
    script = "import sys; from importlib.metadata import version; print(*(version(n) for n in sys.argv[1:]))"
    listed = subprocess.run([python, "-c", script, *names], capture_output=True, text=True, check=True)  # noqa: S603
    versions: dict[str, Any] = dict(zip(names, listed.stdout.split(), strict=True))
    return versions
