"""A package as an OCI artifact: an image manifest (version 1.1) with a layer for each file. docs/artifacts.md has it.

The same files give the same artifact, byte for byte, so its digest names a package with its plans and signatures. This
module writes that manifest and reads one that may come from anybody; it moves nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta
from runtime.package.limits import Size, decode_document
from runtime.package.manifest import MANIFEST_FILE, PLAN_FILE_SUFFIXES, SIGNATURE_FILE, Package
from runtime.package.package_file import file_info, stays_inside
from runtime.package.plan_sidecar import PLAN_FOLDER

from export.errors import TransferError

ARTIFACT_TYPE = "application/vnd.powertrain.package.v1"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
FILE_TYPE = "application/vnd.powertrain.package.file.v1"
PACKAGE_MANIFEST_TYPE = "application/vnd.powertrain.package.manifest.v1+json"
SIGNATURES_TYPE = "application/vnd.in-toto.dsse.v1+jsonl"
TITLE = "org.opencontainers.image.title"
LICENSES = "org.opencontainers.image.licenses"

MAX_MANIFEST_BYTES = 4 * 2**20
"""What registries take as one manifest."""

EMPTY = b"{}"
_MAX_NAME_CHARS = 512  # as a package's manifest has them
_KERNELS = ".kernels"

Digest = Annotated[str, Meta(pattern="^sha256:[0-9a-f]{64}$")]


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """A blob: what kind, which bytes, how many."""

    media_type: Annotated[str, Meta(max_length=255)]
    digest: Digest
    size: Size
    annotations: dict[str, str] = {}


class ArtifactManifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """As much of an OCI image manifest as packages use."""

    schema_version: int = msgspec.field(name="schemaVersion")
    media_type: str = ""
    artifact_type: str = ""
    config: Descriptor
    layers: Annotated[tuple[Descriptor, ...], Meta(max_length=10_000)]
    annotations: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Artifact:
    """A manifest's bytes with their digest, and the layers by the paths that they have in a package."""

    data: bytes
    digest: str
    files: dict[str, Descriptor]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(layer.size for layer in self.files.values())


def artifact_of(package: Package) -> Artifact:
    """The artifact of a verified package, with the plans, signatures and provenance that lie beside its files."""
    root, files = package.root, {}
    for name, info in package.manifest.files.items():
        files[name] = Descriptor(media_type=FILE_TYPE, digest=f"sha256:{info.sha256}", size=info.size)
    for name in (MANIFEST_FILE, *_added_later(root)):
        info = file_info(root / name)
        files[name] = Descriptor(media_type=_media_type(name), digest=f"sha256:{info.sha256}", size=info.size)
    layers = tuple(msgspec.structs.replace(files[name], annotations={TITLE: name}) for name in sorted(files))
    license_name = package.manifest.source.license
    manifest = ArtifactManifest(
        schema_version=2,
        media_type=MANIFEST_TYPE,
        artifact_type=ARTIFACT_TYPE,
        config=Descriptor(media_type=EMPTY_TYPE, digest=digest_of(EMPTY), size=len(EMPTY)),
        layers=layers,
        annotations={} if license_name == "unknown" else {LICENSES: license_name},
    )
    data = msgspec.json.encode(manifest, order="sorted")
    return Artifact(data, digest_of(data), files)


def read_artifact(data: bytes) -> Artifact:
    """An artifact from the bytes of its manifest. Raises TransferError for one that holds no package."""
    try:
        manifest = decode_document(data, ArtifactManifest)
    except ValueError as error:
        raise TransferError(f"what lies there is no package: its manifest is not readable ({error})") from error
    if manifest.artifact_type != ARTIFACT_TYPE:
        kind = manifest.artifact_type or "an image or an artifact without a type"
        raise TransferError(f"what lies there is no package but {kind[:100]!r}; a package is {ARTIFACT_TYPE!r}")
    files: dict[str, Descriptor] = {}
    for layer in manifest.layers:
        name = layer.annotations.get(TITLE, "")
        if not name or len(name) > _MAX_NAME_CHARS or not stays_inside(name):
            raise TransferError(f"the artifact names a file {name[:100]!r}, which does not stay inside a package")
        if name in files:
            raise TransferError(f"the artifact holds {name[:100]!r} twice")
        files[name] = layer
    _check_tree(files)
    if MANIFEST_FILE not in files:
        raise TransferError(f"the artifact holds no {MANIFEST_FILE}, so it is no package")
    return Artifact(data, digest_of(data), files)


def digest_of(data: bytes) -> str:
    """``sha256:`` and the hex digest of bytes, as OCI writes it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _check_tree(files: dict[str, Descriptor]) -> None:
    """Raise TransferError where one file's path goes through another's."""
    for name in files:
        if any(name[:place] in files for place, char in enumerate(name) if char == "/"):
            raise TransferError(f"the artifact holds {name[:100]!r} below a file")


def _added_later(root: Path) -> list[str]:
    """Plans with what describes them, and signatures. Kernels stay where they were compiled."""
    plans = [p.name for p in (root / PLAN_FOLDER).glob("*") if p.name.endswith(PLAN_FILE_SUFFIXES)]
    signed = [SIGNATURE_FILE] if (root / SIGNATURE_FILE).is_file() else []
    return [*(f"{PLAN_FOLDER}/{name}" for name in sorted(plans) if not name.endswith(_KERNELS)), *signed]


def _media_type(name: str) -> str:
    return {MANIFEST_FILE: PACKAGE_MANIFEST_TYPE, SIGNATURE_FILE: SIGNATURES_TYPE}.get(name, FILE_TYPE)
