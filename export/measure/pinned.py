"""A choice of projections that was measured once and stands in a recipe, so that a build need not search again.

Owns what such a choice holds for and how it is spelled. Whether it still is within the budget, the quality report says,
which is measured in any case. Knows no graphs and measures nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from importlib import resources

from export.checkpoint.precision_policy import PROJECTIONS
from export.checkpoint.spec import DecoderSpec
from export.errors import RecipeError
from export.measure.sensitivity import Unit, unit_of
from export.source.recipe import PinnedChoice, Recipe

_DECIDING_CODE = (
    "checkpoint/precision_policy.py",
    "checkpoint/quantize.py",
    "measure/input_ranges.py",
    "measure/quality.py",
    "measure/sensitivity.py",
    "measure/smoothing.py",
)
"""Below ``export``: what decides which projections are chosen. A choice made by other code may still be a good one, but
nobody has measured that."""

_LABEL = re.compile(rf"({'|'.join(PROJECTIONS)}) of layers (\d{{1,4}})-(\d{{1,4}})")


def choice_digest(recipe: Recipe, weights_sha256: str) -> str:
    """sha256 of all that a search for ``recipe`` depends on: weights, settings, the built-in texts and the code."""
    room = resources.files("export")
    texts = sorted((room / "measure" / "texts").iterdir(), key=lambda item: item.name)
    limit = recipe.quality.max_mean_kl if recipe.quality else None
    settings = f"{weights_sha256} {recipe.precision} {recipe.block} {recipe.max_model_len} {limit}\n"
    digest = hashlib.sha256(settings.encode())
    for item in (*(room / path for path in _DECIDING_CODE), *texts):
        digest.update(f"{item.name} {hashlib.sha256(item.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def pinned_units(pinned: PinnedChoice, spec: DecoderSpec) -> list[Unit]:
    """The units that a recipe pins. Raises RecipeError for one that the model does not have."""
    units = []
    for label, loss in pinned.units.items():
        match = _LABEL.fullmatch(label)
        if match is None or not int(match[2]) <= int(match[3]) < spec.num_layers:
            raise RecipeError(
                f"pinned.units has {label!r:.100}; a unit is called 'ROLE of layers FIRST-LAST', with one of "
                f"{', '.join(PROJECTIONS)} and layers 0 to {spec.num_layers - 1}"
            )
        units.append(unit_of(spec, match[1], int(match[2]), int(match[3]) + 1, loss))
    return units


def pin_text(digest: str, units: Sequence[Unit]) -> str:
    """The tables for a recipe that pin ``units``, TOML."""
    lines = [f'"{unit.label}" = {unit.loss:.4f}' for unit in units]
    return "\n".join(["[pinned]", f'digest = "{digest}"', "", "[pinned.units]", *lines])
