"""A pipeline that was built, and copies of it for tests that build on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from export.pipeline.runner import State
from tests.export.pipeline.rehearsing import ALL, FULL, Workshop, pretend_to_compile
from tests.export.tiny_models import write_tiny_folder


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which ``FULL`` was built."""
    folder = tmp_path_factory.mktemp("pipeline")
    write_tiny_folder(folder / "hf", "llama")
    with pytest.MonkeyPatch.context() as patch:
        pretend_to_compile(patch)
        workshop = Workshop(folder)
        outcomes = workshop.build(FULL)
    assert {one.state for one in outcomes} == {State.BUILT}
    assert sorted(workshop.started) == sorted(ALL)
    return folder


@pytest.fixture
def shop(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """The same, in a copy."""
    pretend_to_compile(monkeypatch)
    for name in ("out", "cache"):
        shutil.copytree(built / name, tmp_path / name)
    return Workshop(tmp_path, built)
