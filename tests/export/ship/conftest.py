"""A registry that is strict, a package, and a folder for those that are pulled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.export.ship.packages import some_package
from tests.export.ship.strict_registry import StrictRegistry, running_registry


@pytest.fixture
def registry() -> Iterator[StrictRegistry]:
    with running_registry() as running:
        yield running


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return some_package(tmp_path / "tiny")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"
