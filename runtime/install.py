"""The line that installs what an extra of powertrain needs into the environment that runs now.

Reads the installed distribution's own metadata, so that versions stand in pyproject.toml alone. Installs nothing.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from importlib import metadata

RUNTIME_MODULE = "onnxruntime"
RUNTIME_EXTRA = "cpu"

_DISTRIBUTION = "powertrain"
_OF_EXTRA = re.compile(r"(?P<requirement>[^;]+);.*extra == ['\"](?P<extra>[\w-]+)['\"]")


def has_runtime() -> bool:
    """Whether ONNX Runtime can be imported here, which every package needs to run on the CPU."""
    return importlib.util.find_spec(RUNTIME_MODULE) is not None


def install_line(extra: str, otherwise: str) -> str:
    """A command for the shell. ``otherwise`` is the requirement where powertrain's own metadata is not installed.

    With pip where this environment has it; uv's environments have none.
    """
    try:
        all_of_them = [_OF_EXTRA.match(text) for text in metadata.requires(_DISTRIBUTION) or ()]
    except metadata.PackageNotFoundError:
        all_of_them = []
    wanted = [found["requirement"].strip() for found in all_of_them if found and found["extra"] == extra]
    has_pip = importlib.util.find_spec("pip") is not None
    way = [sys.executable, "-m", "pip", "install"] if has_pip else ["uv", "pip", "install", "--python", sys.executable]
    return shlex.join([*way, *(wanted or [otherwise])])


def runtime_line() -> str:
    """The line that installs ONNX Runtime for the CPU."""
    return install_line(RUNTIME_EXTRA, RUNTIME_MODULE)
