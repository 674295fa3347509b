"""The models of the acceptance: the default one, and tiny random ones of other shapes, each through the real export.

Beside each package lies its reference: the float32 graph of the weights that the package stores, for the CPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from export.checkpoint.precision import EXACT
from export.checkpoint.precision_policy import FOR_TENSORRT, plan_from_name, trt_plan
from export.graph.ort.graph import write_ort_graph
from export.graph.trt.stored import StoredCheckpoint
from export.graph.writer import GRAPH_FILE
from export.package.builder import build_package
from export.progress import SilentReporter
from export.source.opener import open_source
from export.source.recipe import FolderSource, Recipe, load_recipe
from runtime.package.manifest import Package, load_package
from tests.export.tiny_models import write_tiny_folder
from tests.paths import MODELS

WINDOWS = ("mistral", "gemma3")
HEADS = ("head 64", "head 128", "head 256")
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny": ("llama", {}),
    **{name: (name, {}) for name in WINDOWS},
    **{name: ("qwen3", {"head_dim": int(name.split()[1])}) for name in HEADS},
}
"""Name -> architecture of ``tests.export.tiny_models`` and what its config says otherwise."""


def default_recipe(precision: str, max_model_len: int) -> Recipe:
    """The default model for a GPU."""
    recipe = load_recipe(MODELS / "smollm2-135m-instruct.toml")
    return _for_gpus(recipe, precision, max_model_len)


def tiny_recipe(folder: Path, shape: str, precision: str, max_model_len: int) -> Recipe:
    """A random model of ``SHAPES``, whose checkpoint is written below ``folder``."""
    architecture, changes = SHAPES[shape]
    checkpoint = folder / f"{shape} checkpoint"
    if not checkpoint.is_dir():
        write_tiny_folder(checkpoint, architecture, changes=changes)
    recipe = Recipe(name=shape.replace(" ", "-"), source=FolderSource(path=str(checkpoint)))
    return _for_gpus(recipe, precision, max_model_len)


def build(recipe: Recipe, folder: Path) -> tuple[Package, Path]:
    """The package and its reference graph, below ``folder``; built once per recipe's name and precision."""
    root = folder / f"{recipe.name}-{recipe.precision}"
    build_package(recipe, MODELS, root, SilentReporter())
    package, reference = load_package(root), folder / f"{root.name}-reference"
    if not reference.is_dir():
        checkpoint = open_source(recipe, MODELS, SilentReporter()).checkpoint
        stored = StoredCheckpoint(checkpoint, trt_plan(plan_from_name(recipe.precision, recipe.block)))
        write_ort_graph(stored, EXACT, package.manifest.max_model_len, reference, SilentReporter())
    return package, reference / GRAPH_FILE


def _for_gpus(recipe: Recipe, precision: str, max_model_len: int) -> Recipe:
    return msgspec.structs.replace(
        recipe,
        precision=precision,
        max_model_len=max_model_len,
        dialects=("trt",) if precision in FOR_TENSORRT else ("ort", "trt"),
        quality=None,
        pinned=None,
    )
