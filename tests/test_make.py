"""What targets of the Makefile do beyond calling a command, seen with a program that stands for ours."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.paths import ROOT


def test_the_server_is_make_s_own_child_so_that_a_signal_to_make_reaches_it(tmp_path: Path) -> None:
    """make passes a signal on to its children alone: a shell between the two would leave the server behind."""
    said = tmp_path / "said"
    program = tmp_path / "bin" / "powertrain"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$PPID $*" > {said}\n')
    program.chmod(0o755)
    command = ["make", "--old-file=model", "serve", f"VENV={tmp_path}", "MODEL=m", "HOST=::1", "PORT=9", "ARGS=-x"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as make:
        assert make.wait(60) == 0
    assert said.read_text() == f"{make.pid} serve models/m --host ::1 --port 9 -x\n"
