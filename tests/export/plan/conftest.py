"""A package with a plan that was really compiled, once for all tests that look at what lies in a package."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from export.plan.builder import _build_head as builder_head
from export.plan.settings import PlanSettings
from export.plan.targets import Target
from tests.export.plan.stored import build
from tests.export.tiny_package import write_package

_HEADS: dict[tuple[bytes, str, int], tuple[memoryview, int]] = {}


@pytest.fixture
def heads_are_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one graph, target and number of slots; they are all the same here."""

    def build_head(head: Path, target: Target, settings: PlanSettings) -> tuple[memoryview, int]:
        key = head.read_bytes(), target.sm, settings.max_slots
        if key not in _HEADS:
            _HEADS[key] = builder_head(head, target, settings)
        return _HEADS[key]

    monkeypatch.setattr("export.plan.builder._build_head", build_head)


@pytest.fixture(scope="package")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with a plan for sm89. Nobody writes to it."""
    root = tmp_path_factory.mktemp("models") / "tiny"
    write_package(root)
    stored = build(root)
    assert stored.reasons == ("tiny holds no plan for sm89",)
    return root


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(built, tmp_path / "tiny"))
