"""No library of a GPU is opened by the loader's tests: what it asks for is written down."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The backends whose libraries the loader opened, in order."""
    names: list[str] = []
    monkeypatch.setattr("runtime.loading.gpu_loader.open_libraries", names.append)
    return names
