"""A client's own environment under ``.venv-clients/``: made once, and again when what it requires changes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.clients.catalogue import NODE, REQUIREMENTS, SCRIPTS
from tests.paths import ROOT

FOLDER = ROOT / ".venv-clients"
INSTALL_TIMEOUT_S = 1800


class NotInstallable(Exception):
    """A client cannot be installed on this machine; the text says why in one line."""


def command(environment: str, script: str) -> list[str]:
    """The command line, without arguments, that runs a script in its environment, which is made if need be."""
    folder = FOLDER / environment
    if environment == NODE:
        _prepare(folder, REQUIREMENTS / "node.json", _install_node)
        for file in SCRIPTS.glob("*.mjs"):  # Node looks for packages beside the script that wants them
            shutil.copy(file, folder)
        return ["node", str(folder / f"{script}.mjs")]
    _prepare(folder, REQUIREMENTS / f"{environment}.txt", _install_python)
    return [str(folder / "bin" / "python"), "-m", f"tests.clients.{script}"]


def _prepare(folder: Path, requirements: Path, install: Callable[[Path, Path], None]) -> None:
    wanted = requirements.read_text(encoding="utf-8")
    stamp = folder / ".installed"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f"Installing {folder.name}", flush=True)
    install(folder, requirements)
    stamp.write_text(wanted, encoding="utf-8")


def _install_python(folder: Path, requirements: Path) -> None:
    _run([sys.executable, "-m", "venv", str(folder)])
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "install", "-r", str(requirements)])


def _install_node(folder: Path, requirements: Path) -> None:
    if shutil.which("npm") is None:
        raise NotInstallable("no npm on the PATH")
    shutil.copy(requirements, folder / "package.json")
    _run(["npm", "install", "--silent", "--prefix", str(folder)])


def _run(arguments: list[str]) -> None:
    ended = subprocess.run(
        arguments, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=INSTALL_TIMEOUT_S
    )
    if ended.returncode:
        lines = [line for line in ended.stdout.splitlines() if line.strip()] or [f"exit code {ended.returncode}"]
        raise NotInstallable(next((line for line in lines if "ERROR" in line), lines[-1]))
