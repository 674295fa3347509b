"""The acceptance of a backend on a machine with an NVIDIA GPU: every check of ``tests.gpu.checks``, one test each.

``make test-gpu`` runs this file once per backend, with ``--gpu-backend`` and ``--gpu-report``; it is the only place
where plans are executed. Without the option all of it is skipped. The checks themselves are tested on doubles, in
``test_checks.py`` beside this.
"""

from __future__ import annotations

import pytest

from tests.gpu.checks import CHECKS
from tests.gpu.checks.rig import Rig
from tests.gpu.conftest import DETAIL

_TIMEOUT_S = 3600
"""Of a check, for one that hangs: the first to use a model exports it, and builds its plan."""


@pytest.mark.timeout(_TIMEOUT_S)
@pytest.mark.filterwarnings("default")  # what a GPU library deprecates is not what is accepted here
@pytest.mark.parametrize("check_name", CHECKS)
def test_the_gpu_passes(check_name: str, gpu_rig: Rig, request: pytest.FixtureRequest) -> None:
    request.node.stash[DETAIL] = CHECKS[check_name](gpu_rig)
