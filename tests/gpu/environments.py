"""An environment for each GPU backend's acceptance: made from the lock files, or an interpreter that is there already.

Uses Python's own modules alone, since it runs before anything is installed. Knows no check.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_PIN = re.compile(r"(?m)^(?=[A-Za-z0-9])")
_REASON = re.compile(r"(?:^|\s)ERROR: \S|Error: \S")
_HASH = re.compile(r"\s*\\\n\s+--hash=\S+")
_FOR_TESTS = ("pytest>=9.0", "pytest-timeout>=2.4", "hypothesis>=6.140")
"""What the acceptance needs beside powertrain itself."""
_LIST_ABSENT = """
import importlib.metadata as metadata, json, sys
absent = []
for name in sys.argv[1:]:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        absent.append(name)
print(json.dumps(absent))
"""
_OPEN = """
import sys
from runtime.errors import BackendError
from runtime.session.gpu.libraries import open_libraries
try:
    open_libraries(sys.argv[1])
except BackendError as error:
    print(error)
"""


class NoEnvironment(Exception):
    """The environment could not be made; the text is one line that says why."""


@dataclass(frozen=True)
class Backend:
    """A backend as ``--backend`` calls it, its extra, and the lock files of its environment, without some pins."""

    name: str
    extra: str
    locks: tuple[str, ...]
    without: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Its environment's."""
        return f".venv-{self.extra}"

    @property
    def module(self) -> str:
        """As ``runtime.loading.backend_probe`` calls it."""
        return self.name.replace("-", "_")


BACKENDS = (
    # requirements/dev.txt holds onnxruntime, which would overwrite onnxruntime-gpu's files.
    Backend("cuda", "gpu", ("gpu.txt", "dev.txt"), ("onnxruntime",)),
    Backend("tensorrt", "tensorrt", ("cpu.txt", "dev.txt", "tensorrt.txt")),
    Backend("tensorrt-rtx", "tensorrt-rtx", ("cpu.txt", "dev.txt", "tensorrt-rtx.txt")),
)


def merged_locks(folder: Path, backend: Backend, *, hashes: bool = True) -> str:
    """One lock file for an environment: each pin once. Without hashes for wheels that were built elsewhere."""
    pins: dict[str, None] = {}
    for name in backend.locks:
        for pin in _PIN.split((folder / name).read_text(encoding="utf-8")):
            text = pin if hashes else _HASH.sub("", pin)
            if text.strip() and not text.startswith("#") and text.partition("==")[0] not in backend.without:
                pins[text.strip()] = None
    return "\n".join(pins) + "\n"


def make_environment(root: Path, python: str, backend: Backend, wheels: Path | None) -> str:
    """The Python of the backend's environment, made or brought up to date. Raises NoEnvironment.

    ``wheels`` is a folder that everything is taken from, and nothing downloaded.
    """
    folder = root / backend.folder
    inside, mark = folder / "bin" / "python", folder / ".locks"
    lock = merged_locks(root / "requirements", backend, hashes=wheels is None)
    digest = hashlib.sha256(lock.encode() + (root / "pyproject.toml").read_bytes()).hexdigest()
    if mark.is_file() and mark.read_text(encoding="ascii") == digest:
        return str(inside)
    print(f"making {backend.folder}", flush=True)
    if not inside.exists():
        _run([python, "-m", "venv", str(folder)])
    # The lock files are complete; metadata of TensorRT's wheels may name packages that have no hash in them.
    pip = [str(inside), "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps"]
    offline = ["--no-index", "--find-links", str(wheels)] if wheels else ["--require-hashes"]
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write(lock)
        file.flush()
        _run([*pip, *offline, "-r", file.name])
    _run([*pip, "--no-build-isolation", "--editable", str(root)])
    mark.write_text(digest, encoding="ascii")
    return str(inside)


def collect_wheels(root: Path, python: str, backends: Iterable[Backend], folder: Path) -> None:
    """Fill ``folder`` with every wheel that the environments take, for a machine without a network like this one.

    Raises NoEnvironment.
    """
    for backend in backends:
        print(f"collecting the wheels of {backend.folder}", flush=True)
        with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
            file.write(merged_locks(root / "requirements", backend))
            file.flush()
            _run([python, "-m", "pip", "--quiet", "wheel", "--no-deps", "--require-hashes", "-r", file.name,
                  "-w", str(folder)])  # fmt: skip


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise NoEnvironment(f"{command[0]} cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).strip().splitlines() or ["it said nothing"]
        print("\n".join(lines), file=sys.stderr, flush=True)
        told = [line.strip() for line in lines if _REASON.search(line)] or lines
        raise NoEnvironment(f"{' '.join(command[1:3])} failed: {told[-1]}")


def absent_requirements(root: Path, python: str) -> list[str]:
    """What powertrain and its acceptance need and ``python`` has not, as requirements. Raises NoEnvironment."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [line.partition(";")[0].strip() for line in (*project["dependencies"], *_FOR_TESTS)]
    names = {_distribution(line): line for line in wanted}
    said = _answer(root, python, ["-c", _LIST_ABSENT, *names])
    return [names[name] for name in json.loads(said)]


def what_is_missing(root: Path, python: str, backend: Backend) -> str:
    """What keeps a backend from starting with ``python``, with the line that helps; empty when it starts.

    Raises NoEnvironment when the probe cannot be run at all.
    """
    answer = _answer(root, python, ["-P", "-m", "runtime.loading.backend_probe", backend.module])
    try:
        said = json.loads(answer)
    except ValueError as error:
        raise NoEnvironment(f"the probe of its libraries printed {answer!r}") from error
    return f"{said['problem']}; {said['fix']}" if said["problem"] else ""


def absent_libraries(root: Path, python: str, backend: Backend) -> str:
    """The backend's libraries that ``python`` has not, each with its wheel. Needs nothing of powertrain's own."""
    return _answer(root, python, ["-c", _OPEN, backend.module])


def _answer(root: Path, python: str, arguments: list[str]) -> str:
    """The last line that ``python`` prints."""
    try:
        done = subprocess.run(
            [python, *arguments], check=False, capture_output=True, text=True, cwd=root, env=_with(root)
        )
    except OSError as error:
        raise NoEnvironment(f"{python} cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise NoEnvironment(f"{python} failed: {lines[-1]}")
    return (done.stdout.strip().splitlines() or [""])[-1]


def _with(root: Path) -> dict[str, str]:
    """The environment in which an interpreter imports this folder's code, whichever powertrain it has installed."""
    return {**os.environ, "PYTHONPATH": str(root)}


def _distribution(requirement: str) -> str:
    """``msgspec`` of ``msgspec>=0.20``."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    return found[0] if found else requirement
