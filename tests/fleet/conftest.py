"""Fixtures of the fleet's tests."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fleet.plan.spec
from tests.fleet.ray_double import on_doubles

__all__ = ["named_packages", "on_doubles"]


@pytest.fixture
def named_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every folder is a package that is called like it, of 64 tokens, made in second 5; nothing is read of it."""

    def load(folder: Path) -> Any:
        manifest = SimpleNamespace(name=folder.name, served_names=(), created_unix=5, max_model_len=64)
        return SimpleNamespace(manifest=manifest)

    monkeypatch.setattr(fleet.plan.spec, "load_package", load)
