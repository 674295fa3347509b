"""Which package a word means, and what is said of one that means none."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import PackageError
from runtime.package import home as homes
from runtime.package.home import default_home, find_package, only_package, packages_below
from tests.paths import ROOT


def make(home: Path, name: str) -> Path:
    (home / name).mkdir(parents=True)
    (home / name / "manifest.json").touch()
    return home / name


def test_a_name_means_a_package_at_home_and_a_path_the_one_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, elsewhere = make(tmp_path / "home", "a").parent, make(tmp_path / "elsewhere", "b")
    monkeypatch.chdir(tmp_path)
    assert find_package("a", home) == home / "a"
    assert find_package("elsewhere/b", home) == Path("elsewhere/b")
    assert find_package(str(elsewhere), home) == elsewhere
    make(tmp_path, "a")
    assert find_package("a", home) == Path("a")  # what lies here comes before what lies at home
    for outside in ("../home/a/..", "..", ".", ""):
        with pytest.raises(PackageError, match="there is no package"):
            find_package(outside, home)


def test_a_missing_package_is_told_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="build one with 'powertrain export MODEL'"):
        find_package("smollm", tmp_path)
    make(tmp_path, "smollm2")
    with pytest.raises(PackageError, match=f"did you mean {tmp_path}/smollm2"):
        find_package("models/smollm", tmp_path)
    with pytest.raises(PackageError, match=f"there are {tmp_path}/smollm2"):
        find_package("quite-another", tmp_path)


def test_the_only_package_is_found(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="no model package in"):
        only_package(tmp_path)
    first = make(tmp_path, "a")
    make(tmp_path, ".b.partial")
    assert only_package(tmp_path) == first
    second = make(tmp_path, "b")
    assert packages_below(tmp_path) == [first, second]
    with pytest.raises(PackageError, match=r"several packages in .*/a, .*/b"):
        only_package(tmp_path)


def test_a_checkout_keeps_packages_beside_its_recipes_an_installation_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_home() == ROOT / "models"
    monkeypatch.chdir(ROOT)
    assert default_home() == Path("models")
    monkeypatch.setattr(homes, "_CODE", tmp_path)
    assert default_home() == Path.home() / ".cache/powertrain"
    assert default_home(tmp_path) == tmp_path / "powertrain"
