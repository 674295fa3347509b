"""A tiny checkpoint of its own for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.export.tiny_models import write_tiny_folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_tiny_folder(tmp_path / "hf", "llama")
