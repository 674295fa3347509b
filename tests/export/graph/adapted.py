"""Tiny packages with room for adapters, or with one merged, and sessions on them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from export.package.builder import build_package
from export.progress import SilentReporter
from export.source.recipe import FolderSource, Recipe
from runtime.adapters.fitted import fitted
from runtime.adapters.peft import read_adapter
from runtime.loading.model_loader import ModelOptions, adapter_room, plan_model, session_factory
from runtime.package.manifest import Package, load_package
from runtime.session.cpu.ort_session import OrtSession
from runtime.session.session import FloatArray
from tests.adapter_folders import modules_of, random_pairs, write_adapter
from tests.export.tiny_models import tiny_config, tiny_input_ids, tiny_tensors

IDS = tiny_input_ids()
TOLERANCE = 1e-4  # of logits up to 15; what is seen is below 2e-5
RANK = 9
"""Three of them need two blocks of 16 columns."""


def recipe_of(folder: Path, **changes: object) -> Recipe:
    """The recipe of a folder, in fp32 and not measured, but for ``changes``."""
    recipe = Recipe(name="tiny", source=FolderSource(path=str(folder)), precision="fp32", quality=None)
    return msgspec.structs.replace(recipe, **changes)


def tiny_adapter(folder: Path, architecture: str, seed: int = 1) -> Path:
    """A PEFT folder of random matrices for every module of a tiny model."""
    pairs = random_pairs(modules_of(tiny_tensors(tiny_config(architecture))), RANK, seed)
    return write_adapter(folder, pairs, lora_alpha=2 * RANK)


def built(recipe: Recipe, root: Path) -> Package:
    """The package that a recipe gives, in ``root``."""
    return load_package(build_package(recipe, root, root / "package", SilentReporter()).root)


def session_of(package: Package, num_slots: int = 5) -> OrtSession:
    """A session on the CPU with slots of 64 tokens."""
    options = ModelOptions(num_slots=num_slots, max_model_len=64, threads=2)
    session = session_factory(package, plan_model(package, options), options)()
    assert isinstance(session, OrtSession)
    return session


def logits(session: OrtSession, slot: int = 0) -> FloatArray:
    """Logits [T, V] of all of IDS, in a slot."""
    return session.prefill(slot, IDS, 0, len(IDS)).copy()


def with_adapter(session: OrtSession, package: Package, folder: Path, slot: int) -> FloatArray:
    """The same with an adapter in the slot."""
    room = adapter_room(package)
    assert room is not None
    session.set_adapter(slot, fitted(read_adapter(folder), room))
    return logits(session, slot)


def package_of(folder: Path, name: str) -> Package:
    """One of the packages of ``folder``: ``plain``, ``room`` or ``merged``."""
    return load_package(folder / name / "package")
