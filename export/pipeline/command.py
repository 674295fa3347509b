"""A command of powertrain's in a process of its own, for what another room does. Knows no step.

The process ends with the one that started it, however that ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from export.errors import StepError
from export.pipeline.keys import CODE

_PR_SET_PDEATHSIG, _SIGKILL = 1, 9
# By the path of this code: a folder named like one of our rooms in the current folder must not come first.
_BOOT = (
    f"import ctypes, os, sys; ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, {_SIGKILL}); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); sys.path[:0] = [sys.argv[2]]; del sys.argv[1:3]; "
    "from powertrain import main; main(prog_name='powertrain')"
)


def run_command(words: Sequence[str]) -> bytes:
    """What ``powertrain WORDS`` prints; what it says besides goes to this process's standard error.

    Raises StepError for any status but 0.
    """
    command = [sys.executable, "-P", "-X", "utf8", "-c", _BOOT, str(os.getpid()), str(CODE), *words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)  # noqa: S603 - ours
    if done.returncode != 0:
        raise StepError(f"'powertrain {' '.join(words[:2])}' ended with status {done.returncode}; its log says why")
    return done.stdout
