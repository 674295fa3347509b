"""The steps of a pipeline: what each needs, what its key is the digest of, and the task for its process.

A *package* step opens the checkpoint, plans its precisions, writes a graph per dialect and measures its quality: these
share the open checkpoint and the float32 twin, which is most of the work, and none is of use without the others.
Steps that need a result know their key only once it is there. Which steps there are is ``graph``'s; runs nothing.
"""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import msgspec
from runtime.package.manifest import Package, read_manifest
from runtime.package.plan_sidecar import TRT_GRAPH

from export.pipeline.cache import Stored
from export.pipeline.config import TargetTable
from export.pipeline.gates import Gate
from export.pipeline.keys import code_digest, step_key, versions
from export.pipeline.perform import PLAIN_NAME, file_digest, plan_settings
from export.pipeline.place import missing_parts
from export.pipeline.tasks import FetchTask, Identity, Names, PackageTask, PlaceTask, PlanTask, SelfTestTask, Task
from export.plan.targets import Target
from export.plan.wanted import wanted_key
from export.source.fingerprint import stat_fingerprint
from export.source.recipe import FileSource, FolderSource, HubSource, Recipe, WheelSource

Done = Mapping[str, Stored]
"""Results of the steps that a step needs, by their names; a placed package has none."""


@dataclass(frozen=True, slots=True)
class Step(abc.ABC):
    """``label`` is what it makes, ``name`` what people call the step; ``needs`` are names of steps before it."""

    label: str
    needs: tuple[str, ...]

    kind: ClassVar[str]
    """fetch, package, plan, self-test or place."""

    @property
    def name(self) -> str:
        """Kind and label, which together are a step's own."""
        return f"{self.kind} {self.label}"

    @abc.abstractmethod
    def task(self, done: Done, available_bytes: int) -> Task:
        """What its process is told; ``available_bytes`` of memory may be used."""


@dataclass(frozen=True, slots=True)
class CachedStep(Step):
    """A step whose result lies in the cache."""

    @abc.abstractmethod
    def inputs(self, done: Done) -> dict[str, str]:
        """All that the result depends on, by name."""

    def identity(self, done: Done) -> Identity:
        """The entry that the step makes."""
        inputs = self.inputs(done)
        return Identity(kind=self.kind, label=self.label, key=step_key(self.kind, inputs), inputs=inputs)


@dataclass(frozen=True, slots=True)
class FetchStep(CachedStep):
    """Brings a checkpoint here, or reads one that is here, and learns its digest."""

    recipe: Recipe
    base: Path

    kind = "fetch"

    def inputs(self, done: Done) -> dict[str, str]:
        """What names the checkpoint. Of files here, their names, sizes and times: content is what the step learns."""
        del done
        return source_inputs(self.recipe, self.base)

    def task(self, done: Done, available_bytes: int) -> FetchTask:
        """Fetch."""
        del available_bytes
        recipe = msgspec.structs.replace(plain(self.recipe), adapter=None, lora=None)
        return FetchTask(identity=self.identity(done), recipe=recipe, base=str(self.base))


def source_inputs(recipe: Recipe, base: Path) -> dict[str, str]:
    """What names a recipe's checkpoint, by name."""
    match recipe.source:
        case WheelSource() as source:
            fields = msgspec.structs.asdict(source)
            return {name: str(value) for name, value in fields.items() if value is not None and name != "size"}
        case HubSource() as source:
            return {"repo": source.repo, "revision": source.revision}
        case FileSource() | FolderSource() as source:
            bare = msgspec.structs.replace(recipe, chat_template=None, adapter=None, source=_unpinned(source))
            return {"path": str((base / source.path).absolute()), "files": stat_fingerprint(bare, base) or "none"}


def _unpinned(source: FileSource | FolderSource) -> FileSource | FolderSource:
    return FileSource(path=source.path) if isinstance(source, FileSource) else source


def plain(recipe: Recipe) -> Recipe:
    """The recipe of the package without the names that decide no byte of it."""
    return msgspec.structs.replace(recipe, name=PLAIN_NAME, served_names=(PLAIN_NAME,), license="unknown")


@dataclass(frozen=True, slots=True)
class PackageStep(CachedStep):
    """Builds graphs, texts, golden rows and the quality report."""

    recipe: Recipe

    kind = "package"

    def inputs(self, done: Done) -> dict[str, str]:
        """The checkpoint's digest, the recipe without names, libraries and code. Raises SourceError or AdapterError."""
        facts, recipe = done[self.needs[0]].entry.facts, self.recipe
        template = file_digest(Path(recipe.chat_template)) if recipe.chat_template else "the checkpoint's"
        return {
            "weights": facts["weights"],
            "licence text": facts["licence"],
            "precision": recipe.precision,
            "block": str(recipe.block or "usual"),
            "cache": recipe.kv_cache,
            "context": str(recipe.max_model_len or "the model's"),
            "quality limit": f"{recipe.quality.max_mean_kl:g}" if recipe.quality else "not measured",
            "dialects": ", ".join(recipe.dialects),
            "sampling": _json_digest(recipe.generation),
            "chat template": template,
            "pinned choice": _json_digest(recipe.pinned),
            "adapter": _adapter_digest(Path(recipe.adapter)) if recipe.adapter else "none",
            "room for adapters": _json_digest(recipe.lora),
            "libraries": versions("onnx", "onnxruntime", "numpy", "ml-dtypes", "gguf", "safetensors", "tokenizers"),
            "code": code_digest("export.package.builder"),
        }

    def task(self, done: Done, available_bytes: int) -> PackageTask:
        """Build."""
        key = done[self.needs[0]].entry.key
        return PackageTask(
            identity=self.identity(done), recipe=plain(self.recipe), source_key=key, available_bytes=available_bytes
        )


def _adapter_digest(folder: Path) -> str:
    from runtime.adapters.peft import read_adapter  # and numpy, which a pipeline without adapters need not import

    return read_adapter(folder).digest


def _json_digest(value: object) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()


@dataclass(frozen=True, slots=True)
class PlanStep(CachedStep):
    """Compiles a package's ``trt`` graph for a target."""

    table: TargetTable
    target: Target

    kind = "plan"

    def inputs(self, done: Done) -> dict[str, str]:
        """The plan's key, in which the graph is a digest, and the code that compiles. Raises PlanError."""
        package = package_of(done[self.needs[0]])
        key = msgspec.to_builtins(wanted_key(package, self.target, plan_settings(self.table)))
        graph = _json_digest(key.pop("graph_sha256"))
        words = {name.replace("_", " "): str(value) for name, value in key.items()}
        return {
            **words,
            "graph": graph,
            "driver": self.target.driver or "any",
            "code": code_digest("export.plan.builder"),
        }

    def task(self, done: Done, available_bytes: int) -> PlanTask:
        """Compile."""
        key = done[self.needs[0]].entry.key
        return PlanTask(
            identity=self.identity(done), package_key=key, target=self.table, available_bytes=available_bytes
        )


def package_of(stored: Stored) -> Package:
    """A package of the cache with its manifest as recorded; no other file is looked at."""
    return Package(stored.folder, read_manifest(stored.folder))


def files_on_cpu(package: Stored) -> str:
    """Digest of the files that a package's session on the CPU may read."""
    files = package_of(package).manifest.files
    return _json_digest({name: info.sha256 for name, info in files.items() if not name.startswith(f"{TRT_GRAPH}/")})


@dataclass(frozen=True, slots=True)
class SelfTestStep(CachedStep):
    """Runs a package on the CPU."""

    kind = "self-test"

    def inputs(self, done: Done) -> dict[str, str]:
        """The files that are run, what runs them, and the code of the test."""
        return {
            "files": files_on_cpu(done[self.needs[0]]),
            "libraries": versions("onnxruntime", "numpy"),
            "code": code_digest("export.pipeline.self_test"),
        }

    def task(self, done: Done, available_bytes: int) -> SelfTestTask:
        """Run."""
        del available_bytes
        return SelfTestTask(identity=self.identity(done), package_key=done[self.needs[0]].entry.key)


@dataclass(frozen=True, slots=True)
class PlaceStep(Step):
    """Copies a package with its names and plans to where it is served from, unless a gate holds it back."""

    recipe: Recipe
    base: Path
    root: Path
    package: str
    fetch: str
    plans: dict[str, str]
    gates: tuple[Gate, ...] = ()

    kind = "place"

    def names(self, done: Done) -> Names:
        """What the package is called."""
        recipe, facts = self.recipe, done[self.fetch].entry.facts
        return Names(
            name=recipe.name,
            served_names=recipe.served_names or (recipe.name,),
            source_name=facts["name"],
            source_revision=facts.get("revision", ""),
            license=recipe.license,
            recipe_digest=recipe.digest(stat_fingerprint(recipe, self.base)),
        )

    def missing(self, done: Done) -> list[str]:
        """What is not in its place as it should be."""
        plans = {target: done[name] for target, name in self.plans.items()}
        return missing_parts(self.root, done[self.package], plans, self.names(done))

    def task(self, done: Done, available_bytes: int) -> PlaceTask:
        """Copy."""
        del available_bytes
        return PlaceTask(
            root=str(self.root),
            package_key=done[self.package].entry.key,
            plan_keys={target: done[name].entry.key for target, name in self.plans.items()},
            names=self.names(done),
        )
