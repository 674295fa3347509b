"""No file of a package, and nothing that its graph points to, lies outside the package.

Repeats the causes of ONNX's CVE-2022-25882 and CVE-2024-27318 (external data that leaves the model's folder by
``..``), CVE-2026-27489 and CVE-2026-34447 (through a symbolic link) and CVE-2026-34446 (through a hard link).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from runtime.errors import PackageError
from runtime.package.manifest import ModelShape, load_package, read_manifest, write_manifest
from runtime.package.package_file import FileInfo, file_info
from runtime.session.cpu.ort_session import OrtOptions, OrtSession
from runtime.session.kv_budget import KVWishes, plan_kv_cache
from tests.runtime.package.made import make_package

SECRET = np.arange(4, dtype=np.float32).tobytes()


def outside_file(root: Path) -> Path:
    path = root.parent / "outside.bin"
    path.write_bytes(SECRET)
    return path


def replace_by(make: Callable[[Path, Path], object], name: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        target = root / name
        outside = root.parent / ("outside-" + Path(name).name)
        target.rename(outside)
        make(outside, target)

    return damage


def symlink(outside: Path, target: Path) -> None:
    target.symlink_to(outside)


def relative_symlink(outside: Path, target: Path) -> None:
    target.symlink_to(os.path.relpath(outside, target.parent))


def hard_link(outside: Path, target: Path) -> None:
    os.link(outside, target)


def fifo(_outside: Path, target: Path) -> None:
    os.mkfifo(target)


def folder(_outside: Path, target: Path) -> None:
    target.mkdir()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (make, name)
        for make in (symlink, relative_symlink, hard_link, fifo, folder)
        for name in ("manifest.json", "tokenizer.json", "ort/model.onnx", "ort")
        if (make, name) != (hard_link, "ort")  # folders have no hard links
    ],
)
def test_only_plain_files_of_the_package_itself(tmp_path: Path, make: Callable[[Path, Path], None], name: str) -> None:
    root = make_package(tmp_path / "tiny")
    replace_by(make, name)(root)
    with pytest.raises(PackageError, match=r"link|missing|no model package"):
        load_package(root)


def test_a_link_inside_the_package_is_refused_too(tmp_path: Path) -> None:
    root = make_package(tmp_path / "tiny")
    (root / "tokenizer.json").unlink()
    (root / "tokenizer.json").symlink_to("ort/model.onnx")
    with pytest.raises(PackageError, match="goes through a link"):
        load_package(root)


@pytest.mark.parametrize(
    "name",
    [
        "..", "../x", "a/../../x", "/etc/hostname", "//etc/hostname", "./x", "x/", "x//y", "a\\b", "..\\x", "C:\\x", "",
        ".", "x\0y", "x\ny", "x" * 300, "/".join("x" * 100), "x\u202ey", "\u2028",
    ],
    ids=lambda name: repr(name)[:20],
)  # fmt: skip
def test_names_that_are_no_plain_path_inside(tmp_path: Path, name: str) -> None:
    root = make_package(tmp_path / "tiny", files={name: FileInfo(0, "0" * 64)})
    with pytest.raises(PackageError) as caught:
        load_package(root)
    text = str(caught.value)
    expected = {"": "is not readable", ".": "is missing", "/".join("x" * 100): "is missing"}
    assert expected.get(name, "does not stay inside the package") in text
    assert "\n" not in text


def external_graph(root: Path, location: str) -> None:
    """A graph one of whose weights says that its bytes lie at ``location``."""
    weight = TensorProto(name="w", dims=[4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", str(len(SECRET)))):
        weight.external_data.add(key=key, value=value)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(root / "ort" / "model.onnx"))


@pytest.mark.parametrize("kind", ["parent", "absolute", "through a folder", "missing", "memory"])
def test_external_data_that_leaves_the_package(tmp_path: Path, kind: str) -> None:
    root = make_package(tmp_path / "tiny")
    location = {
        "parent": "../../outside.bin",
        "absolute": str(outside_file(root)),
        "through a folder": "ort/../../../outside.bin",
        "missing": "nowhere.bin",
        "memory": "*/_ORT_MEM_ADDR_/*",
    }[kind]
    external_graph(root, location)
    files = {name: file_info(root / name) for name in ("tokenizer.json", "ort/model.onnx")}
    package = load_package(make_manifest(root, files))
    kv = plan_kv_cache(64, 2**20, KVWishes(num_slots=1, slot_tokens=32), model_len=32)
    shape = ModelShape(num_layers=1, num_kv_heads=1, head_dim=8, vocab_size=16)
    with pytest.raises(PackageError, match=r"tiny: ONNX Runtime cannot load model\.onnx") as caught:
        OrtSession(package.path("ort/model.onnx"), shape, kv, OrtOptions(intra_op_threads=1), "float32")
    assert str(tmp_path) not in str(caught.value) or kind == "absolute"


@pytest.mark.parametrize("make", [symlink, hard_link])
def test_external_data_behind_a_link_is_found_before_the_graph_is_read(
    tmp_path: Path, make: Callable[[Path, Path], None]
) -> None:
    root = make_package(tmp_path / "tiny")
    external_graph(root, "model.onnx.data")
    make(outside_file(root), root / "ort" / "model.onnx.data")
    names = ("tokenizer.json", "ort/model.onnx", "ort/model.onnx.data")
    with pytest.raises(PackageError, match="link"):
        load_package(make_manifest(root, {name: file_info(root / name) for name in names}))


def make_manifest(root: Path, files: dict[str, FileInfo]) -> Path:
    """Write the manifest anew, with these digests."""
    write_manifest(root, msgspec.structs.replace(read_manifest(root), files=files))
    return root
