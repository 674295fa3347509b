"""A command whose descriptors 0 to 2 were closed by whoever started it."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

import powertrain
from tests.paths import ROOT

CODE = """
import os, subprocess, sys
from runtime.commands.standard_streams import open_closed_streams
for number in map(int, sys.argv[2:]):
    os.close(number)
for name in ("stdin", "stdout", "stderr"):
    setattr(sys, name, None)  # as Python has it where it was started so
open_closed_streams()
print("nobody reads this", file=sys.stderr, flush=True)
places = [os.readlink(f"/proc/self/fd/{number}") for number in range(3)]
child = ["sh", "-c", f"readlink /proc/self/fd/0 /proc/self/fd/2 > {sys.argv[1]}.child"]
subprocess.run(child, check=True, stdout=subprocess.DEVNULL)
with open(sys.argv[1], "w") as file:
    print(file.fileno() > 2, *places, sys.stdin.fileno(), sys.stdout.fileno(), sys.stderr.fileno(), file=file)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("closed", [c for n in (1, 3) for c in itertools.combinations("012", n)], ids="".join)
def test_what_is_closed_becomes_the_null_device_and_nobody_else_s(closed: tuple[str, ...], tmp_path: Path) -> None:
    report = tmp_path / "report"
    with (tmp_path / "given").open("w+") as given:
        command = [sys.executable, "-c", CODE, str(report), *closed]
        subprocess.run(command, cwd=ROOT, stdin=given, stdout=given, stderr=given, check=True)
    null, kept = "/dev/null", str(tmp_path / "given")
    places = [null if str(number) in closed else kept for number in range(3)]
    assert report.read_text().split() == ["True", *places, "0", "1", "2"]
    assert Path(f"{report}.child").read_text().split() == [places[0], places[2]]


def test_every_command_begins_so(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(powertrain, "open_closed_streams", lambda: done.append("opened"))
    powertrain.main(["--help"], standalone_mode=False)
    assert done == ["opened"]
