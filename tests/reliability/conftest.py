"""Starts the short soak with the first test, so that its minute runs beside the others'."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.paths import ROOT

SOAK_SECONDS = 60
SOAK = pytest.StashKey[subprocess.Popen[str]]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Called once all tests are known: the soak begins if its test is among them."""
    wanted = any("short_soak" in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and not session.config.option.collectonly:
        words = ["--seconds", str(SOAK_SECONDS), "--promises-only"]
        command = [sys.executable, "-m", "tests.reliability.soak", *words]
        session.config.stash[SOAK] = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )


def pytest_unconfigure(config: pytest.Config) -> None:
    """Called at the end, however it came."""
    process = config.stash.get(SOAK, None)
    if process is not None and process.poll() is None:
        process.send_signal(signal.SIGINT)  # it ends its server on the way
        process.wait()


@pytest.fixture
def short_soak(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """The soak that began with the first test."""
    with request.config.stash[SOAK] as process:
        yield process
