"""The line that installs what an extra of powertrain needs into the environment that runs now.

Versions stand in pyproject.toml alone: a checkout has the file, an installed powertrain has them in its distribution's
metadata. Installs nothing.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
import tomllib
from importlib import metadata
from pathlib import Path

RUNTIME_MODULE = "onnxruntime"
RUNTIME_EXTRA = "cpu"

_DISTRIBUTION = "powertrain"
_CHECKOUT = Path(__file__).resolve().parents[1] / "pyproject.toml"
_OF_EXTRA = re.compile(r"(?P<requirement>[^;]+);.*extra == ['\"](?P<extra>[\w-]+)['\"]")
_NAME = re.compile(r"[\w.-]+")
_SAME_MODULE = {"onnxruntime", "onnxruntime-gpu"}
"""Distributions that install the module ``onnxruntime``: the later one overwrites the other's files."""


def has_runtime() -> bool:
    """Whether ONNX Runtime can be imported here, which every package needs to run on the CPU."""
    return importlib.util.find_spec(RUNTIME_MODULE) is not None


def requirements_of(extra: str) -> list[str]:
    """What an extra asks for, such as ``onnxruntime>=1.30,<2``; nothing where powertrain's own metadata is missing."""
    if _CHECKOUT.is_file():
        project = tomllib.loads(_CHECKOUT.read_text(encoding="utf-8"))["project"]
        return list(project["optional-dependencies"].get(extra, ()))
    try:
        found = [_OF_EXTRA.match(text) for text in metadata.requires(_DISTRIBUTION) or ()]
    except metadata.PackageNotFoundError:
        return []
    return [one["requirement"].strip() for one in found if one and one["extra"] == extra]


def install_line(extra: str, otherwise: str) -> str:
    """A command for the shell. ``otherwise`` is the requirement where powertrain's own metadata is not installed.

    With pip where this environment has it; uv's environments have none.
    """
    return shlex.join([*_pip("install"), *(requirements_of(extra) or [otherwise])])


def runtime_line() -> str:
    """The line that installs ONNX Runtime for the CPU."""
    return install_line(RUNTIME_EXTRA, RUNTIME_MODULE)


def backend_line(extra: str) -> str:
    """The line that installs every wheel of a GPU backend's extra, after removing what would lie in its way.

    That is another distribution of the module ``onnxruntime`` than the extra's: of two, each overwrites the other's
    files, so both go before one comes.
    """
    wanted = {found[0] for text in requirements_of(extra) if (found := _NAME.match(text))}
    there = {name for name in _SAME_MODULE if _is_installed(name)}
    install = install_line(extra, f"powertrain[{extra}]")
    if not wanted & _SAME_MODULE or there <= wanted:
        return install
    remove = _pip("uninstall")
    yes = [] if remove[0] == "uv" else ["-y"]
    return f"{shlex.join([*remove, *yes, *sorted(there)])} && {install}"


def _pip(verb: str) -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", verb]
    return ["uv", "pip", verb, "--python", sys.executable]


def _is_installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
