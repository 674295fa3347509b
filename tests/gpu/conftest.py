"""Options of the acceptance on a GPU, the rig that its checks get, and the report of what they found.

The report is JSON: ``{"backend", "gpu", "checks": [{"name", "outcome", "seconds", "detail"}], "tokens_per_s"}``.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import get_args

import pytest

from runtime.loading.gpu import find_gpus
from tests.gpu.checks.rig import Rig
from tests.gpu.gpu_rig import GpuBackend, GpuRig

BACKENDS = get_args(GpuBackend)


@dataclass(frozen=True)
class Found:
    """What became of one check: ``outcome`` is passed, failed or skipped."""

    name: str
    outcome: str
    seconds: float
    detail: str


@dataclass
class Acceptance:
    """What is known of a run, written to the report's file when it ends."""

    backend: GpuBackend
    gpu: str = ""
    checks: list[Found] = field(default_factory=list)
    tokens_per_s: float | None = None


ACCEPTANCE = pytest.StashKey[Acceptance]()
DETAIL = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gpu", "acceptance on a GPU")
    group.addoption("--gpu-backend", choices=BACKENDS, help="Backend to accept; it fails where there is no GPU.")
    group.addoption("--gpu-report", type=Path, metavar="FILE", help="Where to write what the checks found, as JSON.")
    group.addoption("--gpu-soak-seconds", type=float, default=600.0, metavar="N", help="Length of the soak.")


def pytest_configure(config: pytest.Config) -> None:
    """Without the option, or in a run that began elsewhere and does not know it, nothing is accepted."""
    backend = config.getoption("--gpu-backend", None)
    if backend:
        config.stash[ACCEPTANCE] = Acceptance(backend)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note a check's outcome: of its call, or of its setup when that did not pass."""
    report = yield
    acceptance, name = item.config.stash.get(ACCEPTANCE, None), _check_name(item)
    if acceptance is not None and name and (report.when == "call" or (report.when == "setup" and not report.passed)):
        detail = item.stash.get(DETAIL, "") or _reason(report)
        acceptance.checks.append(Found(name, report.outcome, round(report.duration, 3), detail))
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the report, also of a run that failed."""
    acceptance, path = session.config.stash.get(ACCEPTANCE, None), session.config.getoption("--gpu-report", None)
    if acceptance is not None and path is not None:
        path.write_text(json.dumps(asdict(acceptance), indent=2) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def gpu_rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """The machine's GPU with the backend that was asked for; skips where none was, fails where there is no GPU."""
    acceptance = request.config.stash.get(ACCEPTANCE, None)
    if acceptance is None:
        pytest.skip("no --gpu-backend was given; make test-gpu gives it, on a machine with an NVIDIA GPU")
    report = find_gpus()
    if not report.gpus:
        pytest.fail(f"--gpu-backend {acceptance.backend} needs a GPU: {report.problem}; {report.fix}", pytrace=False)
    acceptance.gpu = report.gpus[0].name
    rig = GpuRig(acceptance.backend, tmp_path_factory.mktemp("models"), request.config.getoption("--gpu-soak-seconds"))
    yield rig
    acceptance.tokens_per_s = rig.tokens_per_s


def _check_name(item: pytest.Item) -> str:
    callspec = getattr(item, "callspec", None)
    return str(callspec.params.get("check_name", "")) if callspec else ""


def _reason(report: pytest.TestReport) -> str:
    """The last line of what went wrong, or why it was skipped."""
    lines = report.longreprtext.strip().splitlines()
    return lines[-1] if lines else ""
