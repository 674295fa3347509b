"""A package is loaded only when it is whole, unaltered and holds nothing else."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.errors import PackageError
from runtime.package.manifest import GraphInfo, load_package
from runtime.package.package_file import FileInfo
from tests.runtime.package.made import make_package


def test_a_whole_package_loads(tmp_path: Path) -> None:
    package = load_package(make_package(tmp_path / "tiny"))
    assert package.read_text("tokenizer.json") == "{}"
    with pytest.raises(PackageError, match="holds no 'elsewhere'"):
        package.path("elsewhere")


def grow(root: Path) -> None:
    (root / "tokenizer.json").write_text("{ }")


def flip(root: Path) -> None:
    (root / "ort" / "model.onnx").write_bytes(b"grapH")


def remove(root: Path) -> None:
    (root / "tokenizer.json").unlink()


def link(root: Path) -> None:
    (root / "tokenizer.json").rename(root.parent / "outside.json")
    (root / "tokenizer.json").symlink_to(root.parent / "outside.json")


def link_folder(root: Path) -> None:
    (root / "ort").rename(root.parent / "outside")
    (root / "ort").symlink_to(root.parent / "outside")


def hard_link(root: Path) -> None:
    os.link(root / "tokenizer.json", root.parent / "second.json")


def add_stranger(root: Path) -> None:
    (root / "ort" / "extra.bin").write_bytes(b"")


def truncate_manifest(root: Path) -> None:
    path = root / "manifest.json"
    path.write_bytes(path.read_bytes()[:-20])


def unknown_field(root: Path) -> None:
    path = root / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "surprise": 1}))


def other_version(root: Path) -> None:
    path = root / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))


def no_manifest(root: Path) -> None:
    (root / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (grow, r"'tokenizer.json' has 3 bytes, the manifest says 2"),
        (flip, r"'ort/model.onnx' has sha256 [0-9a-f]{64}, the manifest says"),
        (remove, r"'tokenizer.json' is missing"),
        (link, r"'tokenizer.json' goes through a link"),
        (link_folder, r"'ort/model.onnx' goes through a link"),
        (hard_link, r"'tokenizer.json' is hard-linked elsewhere"),
        (add_stranger, r"the manifest does not name 'ort/extra.bin'"),
        (truncate_manifest, r"manifest.json is not readable"),
        (unknown_field, r"manifest.json is not readable .*surprise"),
        (other_version, r"schema version 99, this powertrain reads 1"),
        (no_manifest, r"manifest.json is missing; build one with 'powertrain export"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    root = make_package(tmp_path / "tiny")
    damage(root)
    with pytest.raises(PackageError, match=message):
        load_package(root)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "ort/../tokenizer.json", "ort\\model.onnx", "./x"])
def test_names_that_leave_the_package_are_refused(tmp_path: Path, name: str) -> None:
    root = make_package(tmp_path / "tiny", files={name: FileInfo(0, "0" * 64)})
    with pytest.raises(PackageError, match="does not stay inside the package"):
        load_package(root)


@pytest.mark.parametrize("name", ["../up", "/etc", "a/b", ".", "..", "a\n", 'a"b', "\u0661", "a" * 256])
def test_a_packages_own_name_leads_nowhere(tmp_path: Path, name: str) -> None:
    """``convert`` makes a folder of it, and a line of another program's configuration."""
    root = make_package(tmp_path / "tiny")
    path = root / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "name": name}))
    with pytest.raises(PackageError, match=r"manifest.json is not readable .*\$.name"):
        load_package(root)


@pytest.mark.parametrize("name", ["", "a\n", "a\r\nlevel=error", "\x1b]0;title\x07", "\u202egpj"])
def test_names_for_clients_stay_on_one_line(tmp_path: Path, name: str) -> None:
    root = make_package(tmp_path / "tiny")
    path = root / "manifest.json"
    for served, is_refused in ((["team/a:b 1", "modèle [x]"], False), ([name], True)):
        path.write_text(json.dumps({**json.loads(path.read_text()), "served_names": served}))
        with pytest.raises(PackageError, match=r"\$.served_names") if is_refused else contextlib.nullcontext():
            load_package(root)


def test_a_graph_that_is_not_listed_is_refused(tmp_path: Path) -> None:
    graphs = {"ort": GraphInfo("ort/other.onnx", "float32", ("cpu",), {}, 1, 1)}
    with pytest.raises(PackageError, match=r"graph 'ort' points to 'ort/other.onnx'"):
        load_package(make_package(tmp_path / "tiny", graphs=graphs))
