"""The product of a pipeline's models, precisions, dialects and targets, less what is excluded, as packages to build.

Owns what an artifact is and how the rules choose among them. Opens no checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import msgspec
from runtime.did_you_mean import did_you_mean

from export.checkpoint.precision_policy import check_dialects, check_precision
from export.errors import ExportError, PipelineError
from export.pipeline.config import Dialect, Exclude, Include, ModelTable, Pipeline, TargetTable
from export.pipeline.gate_rules import Gated, chosen_gates
from export.pipeline.gates import Gate
from export.source.argument import recipe_from_argument
from export.source.recipe import QualityLimits, Recipe, check_recipe

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Artifact:
    """One thing that is built: a package's graph in a dialect, or with ``target`` a plan of its ``trt`` graph."""

    model: str
    precision: str
    dialect: Dialect
    target: str | None = None


@dataclass(frozen=True, slots=True)
class PackageWish:
    """One package: its recipe, the folder that the recipe's paths count from, the targets of its plans, its gates."""

    model: str
    recipe: Recipe
    base: Path
    targets: tuple[TargetTable, ...]
    gates: tuple[Gate, ...] = ()


def wished_packages(pipeline: Pipeline, folder: Path, home: Path) -> list[PackageWish]:
    """Every package of the pipeline in ``folder``; recipes by name lie in ``home``. Raises PipelineError.

    A package is called after its model and its precision.
    """
    models = {}
    for table in pipeline.model:
        recipe, base = _model(table, folder, home)
        if recipe.name in models:
            raise PipelineError(f"two [[model]] tables are called {recipe.name!r}; give one another 'name'")
        models[recipe.name] = (table, recipe, base)
    targets = _by_name(pipeline.target)
    artifacts = _chosen(pipeline, {name: table for name, (table, _, _) in models.items()}, list(targets))
    wishes = []
    for model, precision in dict.fromkeys((one.model, one.precision) for one in artifacts):
        table, recipe, base = models[model]
        own = [one for one in artifacts if (one.model, one.precision) == (model, precision)]
        wishes.append(_wish(model, precision, own, table=table, recipe=recipe, base=base, targets=targets))
    gated = [Gated(one.model, one.recipe.precision, tuple(table.name for table in one.targets)) for one in wishes]
    gates = chosen_gates(pipeline.gate, gated)
    return [replace(one, gates=own) for one, own in zip(wishes, gates, strict=True)]


def _model(table: ModelTable, folder: Path, home: Path) -> tuple[Recipe, Path]:
    near = folder / Path(table.model).expanduser()
    word = str(near.absolute()) if near.exists() else table.model
    try:
        recipe, base = recipe_from_argument(word, home, table.revision)
        template = folder / table.chat_template if table.chat_template else base / (recipe.chat_template or "")
        recipe = msgspec.structs.replace(
            recipe,
            name=table.name or recipe.name,
            chat_template=str(template.absolute()) if table.chat_template or recipe.chat_template else None,
            adapter=str((base / recipe.adapter).absolute()) if recipe.adapter else None,
        )
        check_recipe(recipe)
    except ExportError as error:
        raise PipelineError(f"[[model]] {table.name or table.model!r}: {error}") from error
    return recipe, base.absolute()


def _by_name(tables: Sequence[TargetTable]) -> dict[str, TargetTable]:
    found: dict[str, TargetTable] = {}
    for table in tables:
        if table.name in found:
            raise PipelineError(f"two [[target]] tables are called {table.name!r}; a package has one plan per target")
        found[table.name] = table
    return found


def _chosen(pipeline: Pipeline, models: dict[str, ModelTable], targets: list[str]) -> list[Artifact]:
    """The product, less what is excluded, and what is included. Raises PipelineError for a rule that does nothing."""
    dialects = pipeline.dialects or (("ort", "trt") if targets else ("ort",))
    artifacts = [one for name, table in models.items() for one in _product(name, table, pipeline, dialects, targets)]
    for number, rule in enumerate(pipeline.exclude, 1):
        left = [one for one in artifacts if not _matches(rule, one)]
        if len(left) == len(artifacts):
            _explain_nothing(rule, artifacts, f"[[exclude]] number {number}")
        artifacts = left
    for number, include in enumerate(pipeline.include, 1):
        artifacts += _included(include, f"[[include]] number {number}", models, targets)
    if not artifacts:
        raise PipelineError("the [[exclude]] tables leave nothing to build")
    return list(dict.fromkeys(artifacts))


def _product(
    name: str, table: ModelTable, pipeline: Pipeline, dialects: tuple[Dialect, ...], targets: list[str]
) -> Iterator[Artifact]:
    where = f"[[model]] {name!r}, key 'targets'"
    wanted = targets if table.targets is None else [_known(one, targets, where) for one in table.targets]
    for precision in table.precisions or pipeline.precisions:
        for dialect in table.dialects or dialects:
            yield Artifact(name, precision, dialect)
            if dialect == "trt":
                yield from (Artifact(name, precision, dialect, target) for target in wanted)


def _matches(rule: Exclude, artifact: Artifact) -> bool:
    """Without a target, a rule takes a graph's plans as well."""
    asked = msgspec.structs.asdict(rule)
    return all(value is None or value == getattr(artifact, key) for key, value in asked.items())


def _explain_nothing(rule: Exclude, artifacts: Iterable[Artifact], where: str) -> None:
    """Raise PipelineError with the value that no artifact has, if it is one value's fault."""
    for key, value in msgspec.structs.asdict(rule).items():
        if value is not None:
            _known(value, [one for one in (getattr(a, key) for a in artifacts) if one], f"{where}, key {key!r}")
    raise PipelineError(f"{where} matches nothing; take it out, or give values that occur together")


def _included(rule: Include, where: str, models: dict[str, ModelTable], targets: list[str]) -> list[Artifact]:
    model = _known(rule.model, models, f"{where}, key 'model'")
    artifacts = [Artifact(model, rule.precision, "ort")]
    if rule.dialect == "trt" or rule.target is not None:
        artifacts.append(Artifact(model, rule.precision, "trt"))
    if rule.target is not None:
        target = _known(rule.target, targets, f"{where}, key 'target'")
        artifacts.append(Artifact(model, rule.precision, "trt", target))
    return artifacts


def _known(word: str, known: Iterable[str], where: str) -> str:
    known = list(dict.fromkeys(known))
    if word not in known:
        there = ", ".join(known) or "none"
        raise PipelineError(f"{where}: {word!r} is not among {there}.{did_you_mean(word, known)}")
    return word


def _wish(
    model: str,
    precision: str,
    artifacts: Sequence[Artifact],
    *,
    table: ModelTable,
    recipe: Recipe,
    base: Path,
    targets: dict[str, TargetTable],
) -> PackageWish:
    name = f"{recipe.name}-{precision}"
    dialects = tuple(dict.fromkeys(one.dialect for one in artifacts))
    quality = None if not table.quality else _or(_limits(table), recipe.quality)
    wished = msgspec.structs.replace(
        recipe,
        name=name,
        precision=precision,
        dialects=tuple(sorted(dialects)),
        served_names=_or(table.served_names, recipe.served_names),
        license=_or(table.license, recipe.license),
        block=_or(table.block, recipe.block if precision == recipe.precision else None),
        kv_cache=_or(table.kv_cache, recipe.kv_cache),
        max_model_len=_or(table.max_model_len, recipe.max_model_len),
        quality=quality,
        pinned=recipe.pinned if precision == recipe.precision else None,
    )
    try:
        check_recipe(wished)
        check_precision(precision, wished.block, has_limit=quality is not None)
        check_dialects(precision, wished.dialects, int8_cache=wished.kv_cache == "int8")
    except ExportError as error:
        raise PipelineError(f"[[model]] {model!r} in {precision}: {error}") from error
    chosen = tuple(targets[one.target] for one in artifacts if one.target is not None)
    return PackageWish(model, wished, base, chosen)


def _limits(table: ModelTable) -> QualityLimits | None:
    return None if table.max_kl is None else QualityLimits(max_mean_kl=table.max_kl)


def _or(given: _T | None, otherwise: _T) -> _T:
    return otherwise if given is None else given
