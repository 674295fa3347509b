"""A package that takes another's place: in one step, with the plans that still fit."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import pytest

from export.errors import ExportError
from export.folder_lock import exclusive
from export.package import replace
from export.package.replace import exchange, put_in_place
from runtime.package.manifest import load_package, write_manifest
from runtime.package.plan_sidecar import (
    check_plan_bytes,
    graph_digests,
    plan_path,
    read_sidecar,
    sealed,
    sidecar_path,
    write_sidecar,
)
from tests.export.ship.packages import pull, push
from tests.export.tiny_package import write_package
from tests.runtime.package.made import plan_key, plan_sidecar


def forbidden(*_: object) -> NoReturn:
    raise AssertionError("the package was away for a moment")


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """An old package with plans for two GPUs, and the one that replaces it, with the same graphs."""
    root, partial = tmp_path / "tiny", tmp_path / ".tiny.partial"
    package = write_package(root)
    for target, digests in (("sm80", graph_digests(package)), ("sm89", {"trt/model.onnx": "0" * 64})):
        add_plan(root, target, digests)
    write_manifest(write_package(partial).root, msgspec.structs.replace(package.manifest, served_names=("new",)))
    return root, partial


def add_plan(root: Path, target: str, digests: dict[str, str]) -> None:
    plan = plan_path(root, target)
    plan.write_bytes(target.encode())
    plan.with_name(plan.name + ".kernels").write_bytes(b"kernels")
    key = plan_key(target=target, compute_capability="8.0", graph_sha256=digests)
    digest = hashlib.sha256(target.encode()).hexdigest()
    write_sidecar(sidecar_path(plan), sealed(plan_sidecar(key, plan_sha256=digest)))


def test_a_package_is_replaced_in_one_step_with_the_plans_that_still_fit(
    two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, partial = two
    for name in ("rename", "replace", "unlink", "rmdir"):
        monkeypatch.setattr(Path, name, forbidden)
    put_in_place(partial, root)
    monkeypatch.undo()
    assert load_package(root).manifest.served_names == ("new",)
    assert load_package(partial).manifest.served_names == ("tiny",)  # the builder removes it
    names = {path.name for path in (root / "trt").glob("*.plan*")}
    texts = {"sm80.plan.intoto.json", "sm80.plan.cdx.json"}
    assert names == {"sm80.plan", "sm80.plan.json", "sm80.plan.kernels", *texts}
    check_plan_bytes(read_sidecar(root, "sm80"))


def test_another_graph_takes_no_plan_along(two: tuple[Path, Path]) -> None:
    root, partial = two
    name = "trt/model.onnx"
    manifest = load_package(partial).manifest
    changed = msgspec.structs.replace(manifest.files[name], sha256="1" * 64)
    write_manifest(partial, msgspec.structs.replace(manifest, files={**manifest.files, name: changed}))
    put_in_place(partial, root)
    assert not list((root / "trt").glob("*.plan*"))


def test_a_filesystem_that_cannot_exchange_takes_two_steps(
    two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> NoReturn:
        raise OSError(errno.EINVAL, "Invalid argument")

    root, partial = two
    monkeypatch.setattr(replace, "exchange", refuse)
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    put_in_place(partial, root)
    assert load_package(root).manifest.served_names == ("new",)
    assert (root / "trt" / "sm80.plan").read_bytes() == b"sm80"
    assert sorted(path.name for path in root.parent.iterdir()) == ["tiny"]


def test_exchanging_says_why_it_could_not(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file") as caught:
        exchange(tmp_path / "a", tmp_path / "b")
    assert caught.value.errno == errno.ENOENT


def test_one_lock_holds_one_builder(tmp_path: Path) -> None:
    lock = tmp_path / "made" / ".x.lock"
    busy = pytest.raises(ExportError, match="another powertrain is building x right now")
    with exclusive(lock, "building x"), busy, exclusive(lock, "building x"):
        pass
    assert not lock.exists()
    with exclusive(lock, "building x"):
        assert lock.exists()
    (tmp_path / "file").touch()
    with (
        pytest.raises(ExportError, match=r"cannot be written to \(.*\); do that"),
        exclusive(tmp_path / "file" / "lock", "building x", "do that"),
    ):
        pass


def test_a_pulled_package_is_what_was_pushed_and_takes_no_plan_along(two: tuple[Path, Path], tmp_path: Path) -> None:
    """A plan would make another artifact of it, and nobody signed that one."""
    root, partial = two
    pushed = push(partial, f"file://{tmp_path}/shelf")
    assert (root / "trt/sm80.plan").is_file()
    assert pull(str(pushed.pinned), tmp_path, root).was_there is False
    assert not list((root / "trt").glob("*.plan*"))
    assert pull(str(pushed.pinned), tmp_path, root).was_there is True
