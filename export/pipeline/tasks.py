"""What a build tells the process of a step, and what that says back: one JSON document in, one JSON line each out."""

from __future__ import annotations

import msgspec

from export.pipeline.config import TargetTable
from export.source.recipe import Recipe


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """The entry that a step makes: its kind, what people call it, its key, and the inputs that are the key's."""

    kind: str
    label: str
    key: str
    inputs: dict[str, str]


class FetchTask(msgspec.Struct, frozen=True, kw_only=True, tag="fetch"):
    """Bring ``recipe``'s checkpoint and learn its digest. ``base`` is what its relative paths count from."""

    identity: Identity
    recipe: Recipe
    base: str


class PackageTask(msgspec.Struct, frozen=True, kw_only=True, tag="package"):
    """Build a package without names. ``source_key`` is the fetch's, ``available_bytes`` of memory may be used."""

    identity: Identity
    recipe: Recipe
    source_key: str
    available_bytes: int


class PlanTask(msgspec.Struct, frozen=True, kw_only=True, tag="plan"):
    """Compile the ``trt`` graph of the package at ``package_key`` for ``target``."""

    identity: Identity
    package_key: str
    target: TargetTable
    available_bytes: int


class SelfTestTask(msgspec.Struct, frozen=True, kw_only=True, tag="self-test"):
    """Run the package at ``package_key`` as a server on the CPU would."""

    identity: Identity
    package_key: str


class EvalTask(msgspec.Struct, frozen=True, kw_only=True, tag="eval"):
    """Ask the package at ``package_key`` the questions of ``powertrain eval``."""

    identity: Identity
    package_key: str


class BenchTask(msgspec.Struct, frozen=True, kw_only=True, tag="bench"):
    """Measure how fast the package at ``package_key`` decodes on ``backend``; with a ``plan_key`` that plan of it."""

    identity: Identity
    package_key: str
    plan_key: str | None
    target: str | None
    backend: str


class EngineTestTask(msgspec.Struct, frozen=True, kw_only=True, tag="engine-test"):
    """Compare what the plan at ``plan_key`` computes on ``backend`` with the golden rows of its package."""

    identity: Identity
    package_key: str
    plan_key: str
    target: str
    backend: str


class PlaceTask(msgspec.Struct, frozen=True, kw_only=True, tag="place"):
    """Put the package at ``package_key``, and plans by target, into the folder ``root``, with names."""

    root: str
    package_key: str
    plan_keys: dict[str, str]
    names: Names


class Names(msgspec.Struct, frozen=True, kw_only=True):
    """What a package is called and says of itself; no other byte of it depends on these."""

    name: str
    served_names: tuple[str, ...]
    source_name: str
    source_revision: str
    license: str
    recipe_digest: str


CachedTask = FetchTask | PackageTask | PlanTask | SelfTestTask | EvalTask | BenchTask | EngineTestTask
Task = CachedTask | PlaceTask


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A task and the cache that it works on."""

    cache: str
    task: Task


class Stage(msgspec.Struct, frozen=True, tag="stage"):
    """A stage of ``total`` units began."""

    title: str
    total: int


class Advanced(msgspec.Struct, frozen=True, tag="advanced"):
    """``done`` units of the stage are done."""

    done: int


class Said(msgspec.Struct, frozen=True, tag="said"):
    """A line for people."""

    text: str


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """The step is done, and its result where it belongs."""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The step failed, as ``text`` says to a person; ``is_quality``: it was built and is worse than allowed."""

    text: str
    is_quality: bool


Message = Stage | Advanced | Said | Finished | Failed
