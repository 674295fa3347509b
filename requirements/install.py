"""Put what ``cpu.txt`` names, and powertrain itself, into the environment that runs this; fetch weights meanwhile.

    .venv/bin/python -m requirements.install [--weights models/NAME.toml]        in the repository's root

uv installs it, with a quarter of the CPU time that pip takes: the one on the PATH, else the one of ``uv.txt``, fetched
for this alone and not kept. pip does where uv is not to be had or fails, and where pip's settings send it elsewhere
than to the usual index, since uv does not know them. The environment gets the pinned pip of ``pip.txt`` in any case.
Standard library alone, for ``make``.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NoReturn

from export.errors import SourceError
from export.source.pip_command import pip_command
from requirements.weights_ahead import WeightsAhead

FOLDER = Path(__file__).resolve().parent
_ELSEWHERE = {"client-cert", "index-url", "keyring-provider", "no-index", "proxy", "pypi-url", "trusted-host"}
"""pip's settings for another index than the usual one, or another way to it."""
_SETTING = re.compile(r"^[^.]*\.([\w-]+)='(.*)'$")
_QUIET = ["--quiet", "--disable-pip-version-check"]
_EDITABLE = ["--no-deps", "--no-build-isolation", "--editable", "."]


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status of the installation; what failed has said why."""
    parser = argparse.ArgumentParser(prog="python -m requirements.install", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", type=Path, metavar="RECIPE", help="a recipe whose wheel is fetched meanwhile")
    options = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)  # so that what was started ends with this
    with WeightsAhead(options.weights) if options.weights else nullcontext() as weights:
        status = _install()
        if weights and status == 0:
            weights.wait()
    return status


def _install() -> int:
    if uv_install():
        return 0
    print("Installing with pip", flush=True)
    return _pip_install()


def uv_install() -> bool:
    """Whether uv could be had and has installed everything."""
    try:
        pip = pip_command()
    except SourceError:
        return False
    settings = pip_settings(_output([*pip, "config", "list"]))
    if _ELSEWHERE & settings.keys():
        return False
    with tempfile.TemporaryDirectory(prefix=".uv-", dir=sys.prefix) as scratch:  # on the same disk, for hard links
        own = shutil.which("uv")
        environment = uv_environment(os.environ, settings, None if own else Path(scratch))
        uv = own or fetch_uv(pip, Path(scratch))
        return uv is not None and _all(uv_commands(uv), environment)


def pip_settings(listed: str) -> dict[str, str]:
    """Name -> value of what ``pip config list`` printed, whatever the file or the command that it is for."""
    return {found[1]: found[2] for line in listed.splitlines() if (found := _SETTING.match(line))}


def fetch_uv(pip: Sequence[str], folder: Path) -> str | None:
    """The uv of ``uv.txt``, taken out of its wheel into ``folder``; None where it is not to be had."""
    words = ["download", *_QUIET, "--retries", "1", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    command = [*pip, *words, "--dest", str(folder), "-r", str(FOLDER / "uv.txt")]
    if not _all([command], os.environ):
        return None
    try:
        with zipfile.ZipFile(next(folder.glob("uv-*.whl"))) as wheel:
            member = next(name for name in wheel.namelist() if name.endswith(".data/scripts/uv"))
            program = Path(wheel.extract(member, folder))
    except (StopIteration, zipfile.BadZipFile, OSError):
        return None
    program.chmod(0o755)
    return str(program)


def uv_environment(environ: Mapping[str, str], settings: Mapping[str, str], scratch: Path | None) -> dict[str, str]:
    """``environ`` with pip's certificates, or the system's, and with a cache that goes with ``scratch``.

    None leaves the cache of a person who has a uv in use.
    """
    changes = {"UV_SYSTEM_CERTS": "1"}
    if "cert" in settings:
        changes["SSL_CERT_FILE"] = settings["cert"]
    if scratch is not None:
        changes |= {"UV_CACHE_DIR": str(scratch / "cache"), "UV_LINK_MODE": "hardlink"}
    return {**changes, **environ}


def uv_commands(uv: str) -> list[list[str]]:
    """What uv does, in order: everything that the lists name, powertrain, and a look at whether it fits together."""
    install = [uv, "pip", "install", "--quiet", "--python", sys.executable]
    lists = [word for name in ("cpu.txt", "pip.txt") for word in ("-r", str(FOLDER / name))]
    return [
        [*install, "--no-deps", "--require-hashes", *lists],
        [*install, *_EDITABLE],
        [uv, "pip", "check", "--quiet", "--python", sys.executable],
    ]


def _pip_install() -> int:
    """The same with pip alone; what it says of a failure is for the person."""
    pip = [sys.executable, "-m", "pip"]
    commands = [
        [sys.executable, str(FOLDER / "install_pip.py")],
        [*pip, "install", *_QUIET, "--no-compile", "--no-deps", "--require-hashes", "-r", str(FOLDER / "cpu.txt")],
        [*pip, "install", *_QUIET, "--no-compile", *_EDITABLE],
        [*pip, "check", *_QUIET],
    ]
    for command in commands:
        if status := subprocess.call(command):  # noqa: S603 - fixed words
            return status
    return 0


def _all(commands: Sequence[Sequence[str]], environment: Mapping[str, str]) -> bool:
    """Whether all of them succeed. What one says is dropped: where uv fails, pip says why it is no better."""
    for command in commands:
        done = subprocess.run(command, check=False, env=dict(environment), capture_output=True)  # noqa: S603
        if done.returncode:
            return False
    return True


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout  # noqa: S603


def _leave(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
