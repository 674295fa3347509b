"""Put the pinned pip of ``pip.txt`` into the environment that runs this, which has none yet.

Standard library alone, for ``make``. The pip that Python brings installs it without being installed itself: it takes
twice as long as the pinned one to choose among an index's files, and unpacking and compiling it takes seconds. Where
Python brings no wheel of pip, ``ensurepip`` is asked, which says what the distribution wants instead.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import sysconfig
from pathlib import Path

PINNED = Path(__file__).with_name("pip.txt")


def bundled_wheels() -> list[Path]:
    """pip's wheels as Python brings them for new environments."""
    spec = importlib.util.find_spec("ensurepip")
    folders = [Path(spec.origin).parent / "_bundled"] if spec and spec.origin else []
    if named := sysconfig.get_config_var("WHEEL_PKG_DIR"):
        folders.append(Path(named))
    return sorted(path for folder in folders for path in folder.glob("pip-*.whl"))


def main() -> int:
    """The exit status of the installation."""
    wheels = bundled_wheels()
    if wheels:
        pip = [sys.executable, str(wheels[-1] / "pip")]  # a wheel is a zip file, which Python runs as it is
    else:
        if failed := subprocess.call([sys.executable, "-m", "ensurepip"]):
            return failed
        pip = [sys.executable, "-m", "pip"]
    words = ["install", "--quiet", "--disable-pip-version-check", "--no-compile", "--require-hashes"]
    return subprocess.call([*pip, *words, "-r", str(PINNED)])  # noqa: S603 - fixed words


if __name__ == "__main__":
    sys.exit(main())
