"""Puts a finished package where it belongs, in one step, and keeps what an older one there still has of use.

Where a package stands already, the two folders change places at once (Linux's ``renameat2``), so whoever looks finds
one of them. TensorRT plans that were built from graphs which the new package holds unchanged move along.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
from pathlib import Path

from runtime.errors import PlanError
from runtime.package import manifest as package
from runtime.package.plan_sidecar import (
    BOM_SUFFIX,
    STATEMENT_SUFFIX,
    TRT_GRAPH,
    graph_digests,
    plan_path,
    plan_targets,
    read_sidecar,
)

from export.errors import ExportError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def put_in_place(partial: Path, root: Path, *, keep_plans: bool = True) -> None:
    """Make ``partial`` the package at ``root``. What stood there is at ``partial`` afterwards, or gone.

    ``keep_plans`` lets plans that still fit move along.

    Raises ExportError when ``root`` holds something else than a package.
    """
    if root.exists():
        if any(root.iterdir()) and not (root / package.MANIFEST_FILE).is_file():
            raise ExportError(f"{root} holds other files than a package; choose another folder with -o, or empty it")
        if keep_plans:
            _keep_plans(partial, root)
        try:
            exchange(partial, root)
        except OSError:
            _rename_in_turn(partial, root)
    else:
        partial.rename(root)
    _sync_folder(root.parent)


def exchange(first: Path, second: Path) -> None:
    """Let two folders change places at once. Raises OSError where the system or the filesystem cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        call = libc.renameat2
    except AttributeError as error:
        raise OSError("this system has no renameat2") from error
    call.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    if call(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(second))


def _rename_in_turn(partial: Path, root: Path) -> None:
    """The same in two steps, for filesystems that cannot exchange: for a moment nothing stands at ``root``."""
    old = root.parent / f".{root.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    root.rename(old)
    partial.rename(root)
    shutil.rmtree(old, ignore_errors=True)


def _keep_plans(partial: Path, root: Path) -> None:
    """Give ``partial`` the plans of ``root`` that were built from graph files which it holds with the same digests."""
    from export.provenance.files import plan_provenance  # what writes XML, which a lookup need not import

    fresh = package.Package(partial, package.read_manifest(partial))
    if TRT_GRAPH not in fresh.manifest.graphs:
        return
    for target in plan_targets(root):
        with contextlib.suppress(PlanError):
            sidecar = read_sidecar(root, target).sidecar
            if sidecar.key.graph_sha256 == graph_digests(fresh):
                plan = plan_path(root, target)
                for file in plan.parent.glob(f"{plan.name}*"):  # the plan, its sidecar, kernels compiled from it
                    if not file.name.endswith((STATEMENT_SUFFIX, BOM_SUFFIX)):  # the new package may say other things
                        _link(file, plan_path(partial, target).with_name(file.name))
                for name, data in plan_provenance(fresh.manifest, sidecar).items():
                    plan_path(partial, target).with_name(name).write_bytes(data)


def _link(file: Path, name: Path) -> None:
    """The same bytes under another name: the old name goes away with the old package."""
    try:
        name.hardlink_to(file)
    except OSError:
        shutil.copyfile(file, name)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
