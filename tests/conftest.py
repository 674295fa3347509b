"""Fixtures that several rooms share."""

from __future__ import annotations

import pytest
from hypothesis import settings

from runtime.package.manifest import Package, load_package
from tests.paths import MODELS

DEFAULT_MODEL = "smollm2-135m-instruct"

# No test depends on how fast its machine is, nor on the day: the same examples are tried always.
settings.register_profile("powertrain", deadline=None, derandomize=True)
settings.load_profile("powertrain")


@pytest.fixture(scope="session")
def default_package() -> Package:
    """The built default model; 'make test' builds it before the tests run."""
    folder = MODELS / DEFAULT_MODEL
    if not (folder / "manifest.json").is_file():
        pytest.fail("the default package is not built; run 'make model' once", pytrace=False)
    return load_package(folder)
