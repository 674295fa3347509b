"""The acceptance on a GPU: ``make test-gpu``, or ``python -m tests.gpu.run [options] [pytest's options]``.

For each backend that fits the card: an environment with what it needs, the checks of ``test_gpu_acceptance.py`` in it,
and a row in one table. Ends with 1 when nothing was executed on a GPU, when something failed, or when an environment
could not be made. Without a GPU it says so at once and downloads nothing.

Uses Python's own modules alone: it runs from an unpacked folder, before anything is installed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.gpu.acceptance_table import Row, is_passed, read_report, table
from tests.gpu.environments import (
    BACKENDS,
    Backend,
    NoEnvironment,
    absent_libraries,
    absent_requirements,
    collect_wheels,
    make_environment,
    what_is_missing,
)

ROOT = Path(__file__).resolve().parents[2]
_ACCEPTANCE = "tests/gpu/test_gpu_acceptance.py"
_QUERY = ["--query-gpu=name,compute_cap", "--format=csv,noheader"]
_OF_RTX = {"7.5", "8.0", "8.6", "8.9", "12.0", "12.1"}
"""Compute capabilities that TensorRT for RTX 1.7 has kernels for."""
_OLDEST = (3, 11)


class CannotRun(Exception):
    """Nothing can be tested here; the text is one line that says what is missing."""


@dataclass(frozen=True)
class Card:
    """The first GPU that the driver shows."""

    name: str
    compute_capability: str


def find_card() -> Card:
    """Ask the driver's tool. Raises CannotRun without a GPU."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        raise CannotRun("no NVIDIA driver: nvidia-smi is not on the PATH")
    try:
        done = subprocess.run([tool, *_QUERY], check=False, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotRun(f"nvidia-smi does not answer ({type(error).__name__})") from error
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip().splitlines() or ["no reason given"]
        raise CannotRun(f"nvidia-smi failed: {said[0]}")
    if not lines:
        raise CannotRun("no NVIDIA GPU: the driver shows none")
    name, _, capability = lines[0].rpartition(",")
    return Card(name.strip(), capability.strip())


def main(arguments: Sequence[str] | None = None, *, python: str = sys.executable, root: Path = ROOT) -> int:
    """Run it. Returns the exit status. ``python`` makes the environments, or is the one with ``--here``."""
    options, for_pytest = _parser().parse_known_args(arguments)
    backends = [backend for backend in BACKENDS if not options.backend or backend.name in options.backend]
    try:
        if sys.version_info < _OLDEST:
            raise CannotRun(f"powertrain needs Python 3.11 or newer, this is {sys.version.split()[0]}")
        if options.collect:
            collect_wheels(root, python, backends, options.collect)
            return 0
        card = find_card()
        print(f"{card.name}, compute capability {card.compute_capability}", flush=True)
        if options.here:
            _require_everything(root, python, backends)
    except (CannotRun, NoEnvironment) as error:
        print(f"test-gpu: {error}", file=sys.stderr)
        return 1
    rows = [_row(backend, card, options, for_pytest, python, root) for backend in backends]
    print(f"\n{table(rows)}")
    return 0 if is_passed(rows) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--here", action="store_true", help="install nothing: use this interpreter and what it has")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="install from a folder, download nothing")
    parser.add_argument("--collect", type=Path, metavar="FOLDER", help="fill a folder for --wheels, and test nothing")
    names = [backend.name for backend in BACKENDS]
    parser.add_argument("--backend", action="append", choices=names, help="this one alone; may be given again")
    return parser


def _row(
    backend: Backend, card: Card, options: argparse.Namespace, for_pytest: list[str], python: str, root: Path
) -> Row:
    if backend.name == "tensorrt-rtx" and card.compute_capability not in _OF_RTX:
        why = f"TensorRT for RTX has no kernels for compute capability {card.compute_capability}"
        return Row(backend.name, left_out=why)
    try:
        inside = python if options.here else make_environment(root, python, backend, options.wheels)
        missing = what_is_missing(root, inside, backend)
    except NoEnvironment as error:
        return Row(backend.name, problem=str(error))
    if missing and options.here:
        return Row(backend.name, left_out=missing)
    if missing:
        return Row(backend.name, problem=missing)
    print(f"\n{backend.name}, with {inside}", flush=True)
    return _accept(backend, inside, for_pytest, root)


def _accept(backend: Backend, python: str, for_pytest: list[str], root: Path) -> Row:
    """Run the checks in their environment and read what they report."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        ours = [f"--gpu-backend={backend.name}", f"--gpu-report={report}"]
        command = [python, "-m", "pytest", "-p", "no:cacheprovider", _ACCEPTANCE, *ours, *for_pytest]
        done = subprocess.run(command, check=False, cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
        return read_report(backend.name, report, done.returncode)


def _require_everything(root: Path, python: str, backends: Sequence[Backend]) -> None:
    """Raise CannotRun, naming every wheel, when the interpreter lacks what every backend needs."""
    absent = absent_requirements(root, python)
    if not absent:
        return
    lines = [f"{python} lacks {', '.join(absent)}"]
    for backend in backends:
        libraries = absent_libraries(root, python, backend)
        if libraries:
            lines.append(f"{backend.name}: {libraries}")
    lines.append(
        "install them there, or leave PYTHON out: then environments are made, with WHEELS=FOLDER from a folder"
    )
    raise CannotRun("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
