"""The files that carry provenance: two of a package, which its manifest names, and two beside each plan.

Whoever writes a manifest writes these first, so that what they say and what it says are the same.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from runtime.package import plan_sidecar as sidecars
from runtime.package.manifest import BOM_FILE, PROVENANCE_FILE, PROVENANCE_FILES, Manifest
from runtime.package.package_file import FileInfo, file_info_of
from runtime.package.plan_sidecar import PlanSidecar

from export.provenance.bom import package_bom, plan_bom
from export.provenance.statement import package_statement, plan_statement


def with_provenance(manifest: Manifest) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest with the files that say where the package comes from, and those files' bytes by name.

    The package's name and the names that it is served by decide nothing in them.
    """
    files = {name: info for name, info in manifest.files.items() if name not in PROVENANCE_FILES}
    bom = package_bom(manifest, files)
    covered = {**{name: info.sha256 for name, info in files.items()}, BOM_FILE: file_info_of(bom).sha256}
    written = {PROVENANCE_FILE: package_statement(manifest, covered), BOM_FILE: bom}
    infos: dict[str, FileInfo] = {**files, **{name: file_info_of(data) for name, data in written.items()}}
    return msgspec.structs.replace(manifest, files=dict(sorted(infos.items()))), written


def add_provenance(folder: Path, manifest: Manifest) -> Manifest:
    """Write a package's provenance into its folder; the manifest that names it. Raises OSError."""
    manifest, written = with_provenance(manifest)
    for name, data in written.items():
        (folder / name).write_bytes(data)
    return manifest


def plan_provenance(manifest: Manifest, sidecar: PlanSidecar) -> dict[str, bytes]:
    """What lies beside a plan, by file name."""
    target = sidecar.key.target
    return {
        f"{target}{sidecars.STATEMENT_SUFFIX}": plan_statement(manifest, sidecar),
        f"{target}{sidecars.BOM_SUFFIX}": plan_bom(manifest, sidecar),
    }


def add_plan_provenance(root: Path, manifest: Manifest, sidecar: PlanSidecar) -> None:
    """Write a plan's provenance beside it, by way of files beside the package. Raises OSError."""
    folder = sidecars.plan_path(root, sidecar.key.target).parent
    for name, data in plan_provenance(manifest, sidecar).items():
        temporary = root.parent / f".{root.name}.{name}.partial"
        temporary.write_bytes(data)
        temporary.replace(folder / name)


def has_plan_provenance(root: Path, manifest: Manifest, sidecar: PlanSidecar) -> bool:
    """Whether exactly that lies beside the plan."""
    folder = sidecars.plan_path(root, sidecar.key.target).parent
    wanted = plan_provenance(manifest, sidecar)
    return all((folder / name).is_file() and (folder / name).read_bytes() == data for name, data in wanted.items())
