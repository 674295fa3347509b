"""The model package: what a folder under ``models/`` must hold, and the check that it does.

A package is ``manifest.json`` plus the files that it names, each with size and sha256. This module owns the
manifest's schema, its reading and writing, and the verification of a folder against it. It is the one module that
the export room shares with the runtime; it knows neither graphs nor tokens.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from runtime.errors import PackageError
from runtime.package.adapter_room import AdapterRoom
from runtime.package.limits import (
    MAX_TEXT_BYTES,
    FolderName,
    Layers,
    Name,
    Seconds,
    ServedName,
    Sha256,
    Size,
    Text,
    TokenId,
    Tokens,
    Vocabulary,
    Width,
    decode_document,
    schema_version_of,
)
from runtime.package.package_file import FileInfo, FileSeal, check_file, holds, read_at_most

SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"
TOKENIZER_FILE = "tokenizer.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
GENERATION_CONFIG_FILE = "generation_config.json"
LICENSE_FILE = "LICENSE"
PROVENANCE_FILE = "provenance.intoto.json"
BOM_FILE = "bom.cdx.json"
PROVENANCE_FILES = frozenset({PROVENANCE_FILE, BOM_FILE})
SIGNATURE_FILE = "manifest.intoto.jsonl"
"""Signatures over the manifest and what was added to the package later, beside it: a manifest cannot name them."""
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
"""What statements about packages and plans say."""
ORT_GRAPH = "ort"
OPTIMUM_GRAPH = "optimum"
ONNX_SOURCE = "onnx"
"""``SourceInfo.kind`` of a package made of a graph that others wrote."""

PLAN_FILE_SUFFIXES = (".plan", ".plan.json", ".plan.intoto.json", ".plan.cdx.json", ".plan.kernels")
"""What lies in ``trt/`` beside the graph and is made after the package."""

_MANIFEST_MAX_BYTES = 2 * 2**20


class AdapterInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The adapter whose changes were added to the checkpoint's weights: its folder's name and its files' digest."""

    name: Name
    sha256: Sha256


class SourceInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the weights came from. ``sha256`` is the digest of the checkpoint file (or of its index of digests).

    ``revision`` is the commit or version that was fetched; empty for files that were here already. ``adapter`` is
    absent where none was merged.
    """

    kind: Name
    name: Name
    sha256: Sha256
    license: Text
    revision: Text = ""
    adapter: AdapterInfo | UnsetType = UNSET


class ModelShape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The dimensions that a runtime needs to allocate memory for the model."""

    num_layers: Layers
    num_kv_heads: Width
    head_dim: Width
    vocab_size: Vocabulary


class GraphInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One ONNX graph of the package.

    ``path`` is relative to the package. ``precision`` maps a tensor group (``embedding``, ``attention``, ``mlp``,
    ``head``) to its stored form, such as ``int8 block 64``. ``weight_bytes`` are the bytes that one decode step reads.
    """

    path: Name
    kv_dtype: Literal["float32", "float16", "bfloat16", "int8"]
    providers: tuple[Name, ...]
    precision: dict[Name, Text]
    weight_bytes: Size
    num_nodes: Size


class Quality(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The exported graph against the fp32 graph of the same checkpoint on the built-in text.

    ``mean_kl`` and ``p99_kl`` are KL(fp32 || graph) per token in nats; ``top1_agreement`` is a share in 0..1.
    """

    text: Text
    num_tokens: Size
    mean_kl: float
    p99_kl: float
    top1_agreement: float
    perplexity: float
    reference_perplexity: float
    max_mean_kl: float


class GoldenInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file with golden rows, see ``runtime.package.golden``: texts, their tokens together, rows, tokens per row."""

    path: Name
    num_texts: Annotated[int, Meta(ge=1, le=64)]
    num_tokens: Annotated[int, Meta(ge=1, le=2**20)]
    num_rows: Annotated[int, Meta(ge=1, le=2**14)]
    num_best: Annotated[int, Meta(ge=1, le=2**10)]


class SelectionInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The graph of a selection head with a mask, see ``runtime.package.selection_io``."""

    path: Name


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that is known of a package. Written last, so a folder with a manifest is a whole package.

    ``golden`` and ``selection`` are None where no GPU is meant to run the package. ``adapters`` is absent where the
    graph takes none. ``recipe`` is what was asked for, without names and paths; empty in packages of older versions.
    """

    schema_version: int
    name: FolderName
    served_names: tuple[ServedName, ...]
    source: SourceInfo
    architecture: Name
    spec: dict[str, Any]
    shape: ModelShape
    max_model_len: Tokens
    stop_token_ids: tuple[TokenId, ...]
    special_tokens: dict[Name, Text]
    graphs: dict[Name, GraphInfo]
    quality: Quality | None
    recipe_digest: Text
    files: dict[Name, FileInfo]
    tools: dict[Name, Text]
    build_seconds: Seconds
    created_unix: Size
    golden: GoldenInfo | None = None
    selection: SelectionInfo | None = None
    adapters: AdapterRoom | UnsetType = UNSET
    recipe: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Package:
    """A verified package on disk.

    ``seals`` are the states of its files as they were verified, by their paths in it. Where the manifest is among them
    a signature was verified too: then what they do not name was signed by nobody.
    """

    root: Path
    manifest: Manifest
    seals: Mapping[str, FileSeal] = field(default_factory=dict, repr=False, compare=False)

    def path(self, name: str) -> Path:
        """Absolute path of a file that the manifest names; PackageError for any other."""
        if name not in self.manifest.files:
            raise PackageError(f"package {self.manifest.name!r} holds no {name!r}; rebuild it with 'powertrain export'")
        return self.root / name

    def read_bytes(self, name: str, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
        """A whole file that the manifest names; PackageError above ``max_bytes``, and where it has changed since."""
        path, size = self.path(name), self.manifest.files[name].size
        if size > max_bytes:
            raise PackageError(f"{self.manifest.name}: {name} has {size} bytes, more than the {max_bytes} it may have")
        data = read_at_most(path, size)
        self._check_seal(name)
        if data is None:
            raise PackageError(f"{self.manifest.name}: {name} has more than the {size} bytes that the manifest says")
        return data

    def read_text(self, name: str) -> str:
        """UTF-8 text of a file that the manifest names."""
        try:
            return self.read_bytes(name).decode("utf-8")
        except UnicodeDecodeError as error:
            raise PackageError(f"{self.manifest.name}: {name} is not UTF-8 text ({error.reason})") from error

    def check_unchanged(self, opened: Collection[Path] = ()) -> None:
        """Raise PackageError if a file is not as it was verified. For who has opened files by their paths meanwhile.

        ``opened`` are files that came to the package later; a signature must have named them where there is one.
        """
        for name in self.seals:
            self._check_seal(name)
        for path in opened if MANIFEST_FILE in self.seals else ():
            if path.resolve() not in {self.root / name for name in self.seals}:
                raise PackageError(
                    f"{self.manifest.name}: {path.name} came after the signature was verified; try again"
                )

    def _check_seal(self, name: str) -> None:
        seal = self.seals.get(name)
        if seal is not None and not holds(self.root / name, seal):
            raise PackageError(f"{self.manifest.name}: {name} has changed since it was verified; try again")


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` into a package folder, whole or not at all."""
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    partial = root / (MANIFEST_FILE + ".partial")
    with partial.open("wb") as file:
        file.write(data + b"\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(root / MANIFEST_FILE)


def load_package(root: Path, *, verify_digests: bool = True) -> Package:
    """Read and verify a package folder.

    Every file must be named by the manifest, be a regular file inside the folder with the recorded size and, unless
    ``verify_digests`` is off, the recorded sha256. Raises PackageError naming the first difference.
    """
    manifest = read_manifest(root)
    seals = {name: check_file(root, name, info, verify_digest=verify_digests) for name, info in manifest.files.items()}
    _check_no_strangers(root, manifest)
    for key, graph in manifest.graphs.items():
        if graph.path not in manifest.files:
            raise PackageError(f"{root.name}: graph {key!r} points to {graph.path!r}, which the manifest does not list")
    if manifest.selection is not None and manifest.selection.path not in manifest.files:
        path = manifest.selection.path
        raise PackageError(f"{root.name}: the selection head is {path!r}, which the manifest does not list")
    outside = [token_id for token_id in manifest.stop_token_ids if token_id >= manifest.shape.vocab_size]
    if outside:
        size = manifest.shape.vocab_size
        raise PackageError(f"{root.name}: stop_token_ids holds {outside[0]}, the vocabulary has {size} tokens")
    return Package(root=root.resolve(), manifest=manifest, seals=seals)


def read_manifest(root: Path) -> Manifest:
    """Parse a folder's manifest without looking at the other files. Raises PackageError."""
    path = root / MANIFEST_FILE
    if not path.is_file():
        raise PackageError(
            f"no model package at {root}: {MANIFEST_FILE} is missing; "
            f"build one with 'powertrain export MODEL -o {root}'"
        )
    if path.is_symlink() or path.stat().st_nlink > 1:
        raise PackageError(f"{root.name}: {MANIFEST_FILE} is a link; packages hold plain files only")
    data = read_at_most(path, _MANIFEST_MAX_BYTES)
    if data is None:
        raise PackageError(
            f"{root.name}: {MANIFEST_FILE} is larger than {_MANIFEST_MAX_BYTES} bytes; it is not a manifest"
        )
    try:
        version = schema_version_of(data)  # before fields that another version has or lacks
        if version == SCHEMA_VERSION:
            return decode_document(data, Manifest)
    except ValueError as error:
        raise PackageError(f"{root.name}: {MANIFEST_FILE} is not readable ({error}); rebuild the package") from error
    raise PackageError(
        f"{root.name}: the package has schema version {version}, this powertrain reads {SCHEMA_VERSION}; "
        "rebuild it with 'powertrain export'"
    )


def _check_no_strangers(root: Path, manifest: Manifest) -> None:
    known = set(manifest.files) | {MANIFEST_FILE}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_dir() and not path.is_symlink():
            continue
        if name not in known and not _is_added_later(path, name):
            raise PackageError(f"{root.name}: the manifest does not name {name!r}; remove it or rebuild the package")


def _is_added_later(path: Path, name: str) -> bool:
    """Signatures; TensorRT plans, what describes them and kernels compiled from them. All are checked when used."""
    is_plan_file = name.startswith("trt/") and name.count("/") == 1 and name.endswith(PLAN_FILE_SUFFIXES)
    return (is_plan_file or name == SIGNATURE_FILE) and path.is_file() and not path.is_symlink()
