"""The sidecar of a TensorRT plan: what it was built from, by what, for which GPU; checked before a byte is loaded.

``trt/<target>.plan`` lies in a package beside ``trt/<target>.plan.json``, which this module owns: schema, reading,
writing, and the comparison with what is wanted. Plans are built after the package, so the manifest does not name
them. Part of the package format like ``runtime.package.manifest``; knows no TensorRT.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import msgspec

from runtime.errors import PlanError
from runtime.package.attention_form import DEFAULT_ATTENTION, AttentionForm
from runtime.package.limits import Name, Seconds, Sha256, Size, Text, Tokens, Width, decode_document, schema_version_of
from runtime.package.manifest import Package
from runtime.package.package_file import read_at_most, sha256_of_file

SCHEMA_VERSION = 4
TRT_GRAPH = "trt"
PLAN_FOLDER = "trt"
PLAN_SUFFIX = ".plan"
SIDECAR_SUFFIX = ".plan.json"
STATEMENT_SUFFIX = ".plan.intoto.json"
BOM_SUFFIX = ".plan.cdx.json"

_SIDECAR_MAX_BYTES = 2**20


class PlanKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that decides whether a built plan is the wanted one.

    ``library`` is ``tensorrt`` or ``tensorrt_rtx``; ``compute_capability`` such as ``8.9``; ``graph_sha256`` maps the
    package's graph files to their digests. A cache slot holds ``max_model_len`` tokens. The profiles are decode
    (1..max_slots rows of one token) and prefill (one row of 1..prefill_tokens tokens with 1..max_logits of logits).
    ``attention`` is the form that was built.
    """

    library: Name
    library_version: Text
    target: Name
    compute_capability: Text
    hardware_compatibility: Text
    graph_sha256: dict[Name, Sha256]
    max_slots: Width
    max_model_len: Tokens
    prefill_tokens: Tokens
    max_logits: Tokens
    optimization_level: Size
    workspace_bytes: Size
    attention: AttentionForm


class PlanSidecar(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``key`` and what came of it. ``digest`` is the sha256 of all other fields, so that an edit shows.

    The file begins with the decoder's plan, of ``decoder_bytes``, and ends with that of the selection head, of
    ``selection_bytes``; 0 where the package has none. ``capacity`` is the rows of a cache slot in memory.
    ``scratch_bytes`` is the memory that runs of both need for activations, as the builder said it; 0 if it did not.
    """

    schema_version: int
    key: PlanKey
    precision: dict[Name, Text]
    capacity: Tokens
    plan_bytes: Size
    decoder_bytes: Size
    selection_bytes: Size
    scratch_bytes: Size
    plan_sha256: Sha256
    driver: Text
    build_seconds: Seconds
    peak_memory_bytes: Size
    created_unix: Size
    digest: Text = ""


@dataclass(frozen=True, slots=True)
class PlanFile:
    """A plan of a package with its readable sidecar."""

    path: Path
    sidecar: PlanSidecar


def plan_path(root: Path, target: str) -> Path:
    """Where a target's plan lies in a package."""
    return root / PLAN_FOLDER / f"{target}{PLAN_SUFFIX}"


def sidecar_path(plan: Path) -> Path:
    """Where a plan's sidecar lies."""
    return plan.with_name(plan.name.removesuffix(PLAN_SUFFIX) + SIDECAR_SUFFIX)


def plan_targets(root: Path) -> list[str]:
    """Targets of all plans in a package folder, whatever their state."""
    folder = root / PLAN_FOLDER
    return sorted(path.name.removesuffix(PLAN_SUFFIX) for path in folder.glob("*" + PLAN_SUFFIX))


def rebuild_command(root: Path, target: str, key: PlanKey | None = None) -> str:
    """The line that builds a target's plan anew: as usual, or with the shapes and options of ``key``."""
    wanted = "current" if target.startswith("current-") else target
    line = f"powertrain engine {shlex.quote(str(root))} --target {wanted}"
    if key is None:
        return line
    line += f" --max-slots {key.max_slots} --prefill-tokens {key.prefill_tokens} --max-model-len {key.max_model_len}"
    line += f" --optimization-level {key.optimization_level}"
    line += f" --workspace-mib {key.workspace_bytes // 2**20}" if key.workspace_bytes else ""
    line += "" if key.attention == DEFAULT_ATTENTION else f" --attention {key.attention}"
    compatible = key.hardware_compatibility
    return line if compatible == "none" else f"{line} --hardware-compatibility {compatible}"


def longer_export(package: Package, max_model_len: int) -> str:
    """What a person must do to get a package whose slots may hold ``max_model_len`` tokens; the end of a sentence."""
    most = package.manifest.spec.get("max_positions")
    if isinstance(most, int) and max_model_len > most:
        return f"the model was made for {most} tokens, so ask for {most} at most"
    dialects = ",".join(sorted(package.manifest.graphs))
    return (
        f"export the package again with 'powertrain export MODEL --dialect {dialects} --max-model-len {max_model_len} "
        f"-o {shlex.quote(str(package.root))}', where MODEL is what it was exported from"
    )


def graph_digests(package: Package) -> dict[str, str]:
    """Digests of the package's ``trt`` graph files, and of the selection head's if there is one, from its verified
    manifest. Raises PlanError without a graph."""
    graph = package.manifest.graphs.get(TRT_GRAPH)
    if graph is None:
        raise PlanError(
            f"package {package.manifest.name!r} holds no graph for TensorRT; "
            "build it with 'powertrain export MODEL --dialect ort,trt'"
        )
    paths = [graph.path, *([head.path] if (head := package.manifest.selection) else [])]
    return {name: info.sha256 for name, info in package.manifest.files.items() if name.startswith(tuple(paths))}


def graph_bytes(package: Package) -> int:
    """Size of the ``trt`` graph's files, beside which a selection head's counts for nothing."""
    return sum(info.size for name, info in package.manifest.files.items() if name.startswith(f"{TRT_GRAPH}/"))


def sealed(sidecar: PlanSidecar) -> PlanSidecar:
    """The sidecar with its digest filled in."""
    return msgspec.structs.replace(sidecar, digest=_digest(sidecar))


def write_sidecar(path: Path, sidecar: PlanSidecar) -> None:
    """Write a sealed sidecar to ``path``, durably."""
    with path.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(sealed(sidecar)), indent=2) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_sidecar(root: Path, target: str) -> PlanFile:
    """The sidecar of a target's plan. Raises PlanError when it is missing, unreadable or edited."""
    path = plan_path(root, target)
    sidecar, help_line = sidecar_path(path), f"build it with '{rebuild_command(root, target)}'"
    if not path.is_file() or path.is_symlink():
        raise PlanError(f"{root.name} holds no plan for {target}; {help_line}")
    is_plain = sidecar.is_file() and not sidecar.is_symlink()
    data = read_at_most(sidecar, _SIDECAR_MAX_BYTES) if is_plain else None
    if data is None:
        raise PlanError(f"plan {path.name} has no usable {sidecar.name}; {help_line}")
    try:
        version = schema_version_of(data)
        if version != SCHEMA_VERSION:  # before fields that another version has or lacks
            raise PlanError(
                f"{sidecar.name} has schema version {version}, this powertrain reads {SCHEMA_VERSION}; {help_line}"
            )
        found = decode_document(data, PlanSidecar)
    except ValueError as error:
        raise PlanError(f"{sidecar.name} is not readable ({error}); {help_line}") from error
    if found.digest != _digest(found):
        raise PlanError(f"{sidecar.name} was edited after the build; {help_line}")
    return PlanFile(path, found)


def check_plan_bytes(plan: PlanFile) -> None:
    """Raise PlanError unless the plan's bytes are those that were built."""
    root, target = plan.path.parent.parent, plan.sidecar.key.target
    size, wanted = plan.path.stat().st_size, plan.sidecar.plan_bytes
    if size != wanted:
        raise PlanError(
            f"plan {plan.path.name} has {size:,} bytes, its sidecar says {wanted:,}; "
            f"rebuild it with '{rebuild_command(root, target)}'"
        )
    digest = sha256_of_file(plan.path)
    if digest != plan.sidecar.plan_sha256:
        raise PlanError(
            f"plan {plan.path.name} has sha256 {digest[:12]}, its sidecar says {plan.sidecar.plan_sha256[:12]}; "
            f"rebuild it with '{rebuild_command(root, target)}'"
        )


def key_differences(built: PlanKey, wanted: PlanKey) -> list[str]:
    """What sets two keys apart, one phrase each, in the order of the fields; empty when they are equal."""
    differences = []
    for name in PlanKey.__struct_fields__:
        old, new = getattr(built, name), getattr(wanted, name)
        if name == "graph_sha256":
            changed = sorted(file for file in {*old, *new} if old.get(file) != new.get(file))
            differences += [
                f"{file} is {new.get(file, 'absent')[:12]}, the plan was built from {old.get(file, 'nothing')[:12]}"
                for file in changed
            ]
        elif old != new:
            differences.append(f"{name.replace('_', ' ')} is {new}, the plan was built with {old}")
    return differences


def _digest(sidecar: PlanSidecar) -> str:
    blank = msgspec.structs.replace(sidecar, digest="")
    return hashlib.sha256(msgspec.json.encode(blank, order="sorted")).hexdigest()
