"""A package of some bytes, and a pull or push that waits for nothing."""

from __future__ import annotations

from pathlib import Path

import msgspec

from export.progress import SilentReporter
from export.ship.places import open_place
from export.ship.pull import Pulled, pull_package
from export.ship.push import Pushed, push_package
from export.ship.reference import parse_reference
from export.ship.retrying import Patience
from runtime.package.manifest import load_package, read_manifest, write_manifest
from runtime.package.package_file import file_info
from tests.runtime.package.made import make_package

IMPATIENT = Patience(tries=3, pause=lambda _seconds: None)


def some_package(root: Path, graph: bytes = bytes(range(256)) * 8) -> Path:
    """A package with a graph of those bytes; its tokenizer is the same in all."""
    make_package(root)
    (root / "ort" / "model.onnx").write_bytes(graph)
    files = {name: file_info(root / name) for name in ("tokenizer.json", "ort/model.onnx")}
    write_manifest(root, msgspec.structs.replace(read_manifest(root), files=files))
    load_package(root)
    return root


def push(root: Path, reference: str, config: Path | None = None) -> Pushed:
    wanted = parse_reference(reference)
    with open_place(wanted, config) as place:
        return push_package(load_package(root), wanted, place, SilentReporter(), IMPATIENT)


def pull(reference: str, home: Path, root: Path | None = None, config: Path | None = None) -> Pulled:
    wanted = parse_reference(reference)
    with open_place(wanted, config) as place:
        return pull_package(wanted, place, home, SilentReporter(), root=root, patience=IMPATIENT)


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
