"""Whoever opens a file after it was verified can tell whether it is still that file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from runtime.errors import PackageError
from runtime.package.manifest import MANIFEST_FILE, Package, load_package
from runtime.package.package_file import hashed, holds, read_at_most
from tests.runtime.package.made import make_package


def write_later(path: Path, data: bytes) -> None:
    """Change a file's bytes and put its times back, as somebody would who wants to go unnoticed."""
    before = path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # the kernel's clock moves in steps
        path.write_bytes(data)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_seal_is_of_what_was_hashed_and_holds_until_somebody_writes(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"graph")
    digest, seal = hashed(path)
    assert digest == hashlib.sha256(b"graph").hexdigest()
    assert (seal.size, seal.modified_ns) == (5, path.stat().st_mtime_ns)
    assert holds(path, seal)
    write_later(path, b"other")
    assert path.stat().st_mtime_ns == seal.modified_ns
    assert not holds(path, seal)
    path.unlink()
    assert not holds(path, seal)


def test_no_more_is_read_than_was_allowed(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"12345")
    assert [read_at_most(path, most) for most in (5, 4)] == [b"12345", None]
    assert read_at_most(Path("/dev/zero"), 4) is None


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return load_package(make_package(tmp_path / "tiny"))


def test_a_file_that_changed_after_it_was_verified_is_not_read(package: Package) -> None:
    package.check_unchanged()
    write_later(package.root / "tokenizer.json", b"[]")
    with pytest.raises(PackageError, match=r"tiny: tokenizer\.json has changed since it was verified"):
        package.read_text("tokenizer.json")
    with pytest.raises(PackageError, match=r"tokenizer\.json has changed"):
        package.check_unchanged()
    again = load_package(package.root, verify_digests=False)
    again.check_unchanged()
    (again.root / "tokenizer.json").write_bytes(b"[1]")
    with pytest.raises(PackageError, match=r"tokenizer\.json has changed|more than the 2 bytes"):
        again.read_bytes("tokenizer.json")


def test_where_a_signature_was_verified_nothing_may_come_later(package: Package) -> None:
    plan = package.root / "trt/sm89.plan"
    package.check_unchanged([plan])  # no signature: it is checked when it is used
    _, seal = hashed(package.root / MANIFEST_FILE)
    signed = Package(package.root, package.manifest, {**package.seals, MANIFEST_FILE: seal})
    with pytest.raises(PackageError, match=r"tiny: sm89\.plan came after the signature was verified"):
        signed.check_unchanged([plan])
    plan.parent.mkdir()
    plan.write_bytes(b"plan")
    Package(package.root, package.manifest, {**signed.seals, "trt/sm89.plan": hashed(plan)[1]}).check_unchanged([plan])
