"""Twenty SIGKILLs of a build at random moments: the next one completes, and finished steps are never done again."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from export.pipeline.cache import Cache
from export.pipeline.upkeep import damaged_entries
from runtime.package.manifest import load_package
from tests.export.tiny_models import write_tiny_folder
from tests.paths import ROOT

pytestmark = pytest.mark.chaos

FILE = """
output = "out"
cache = "cache"
precisions = ["int8", "int4"]
jobs = 1
[[model]]
model = "hf"
quality = false
[[target]]
name = "sm89"
max_slots = 4
prefill_tokens = 32
"""
KILLS = 20


def build(folder: Path, seconds: float | None) -> tuple[int | None, list[str]]:
    """(status, what it said); None for a build that was killed after so many seconds, its steps with it."""
    command = [sys.executable, str(ROOT / "powertrain.py"), "build", str(folder / "p.toml")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder)
    try:
        _, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        _, said = process.communicate()  # ends when no step holds the pipe any more
        return None, said.splitlines()
    return process.returncode, said.splitlines()


@pytest.mark.timeout(900)
def test_a_build_that_is_killed_again_and_again_is_completed(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is published for Linux on x86-64 only")
    write_tiny_folder(tmp_path / "hf", "llama")
    (tmp_path / "p.toml").write_text(FILE)
    moments, done = random.Random(5), Counter[str]()
    kills = 0
    while kills < KILLS:
        status, said = build(tmp_path, moments.uniform(0.5, 9))
        done.update(line.split(":")[0] for line in said if ": done in" in line)
        kills += status is None
        if status is not None:  # it got to its end: the next ones begin where the packages and the cache are empty
            assert status == 0, said
            assert max(done.values()) == 1, done
            subprocess.run(["rm", "-rf", str(tmp_path / "out"), str(tmp_path / "cache")], check=True)
            done.clear()
    status, said = build(tmp_path, None)
    assert status == 0, said
    done.update(line.split(":")[0] for line in said if ": done in" in line)
    assert max(done.values()) == 1, done
    for name in ("hf-int8", "hf-int4"):
        load_package(tmp_path / "out" / name)
    assert damaged_entries(Cache(tmp_path / "cache"), lambda _stored: None) == []
    assert build(tmp_path, None) == (0, ["9 steps: 9 fresh"])


LAUNCH = """
import os, select, sys
from pathlib import Path
from export.pipeline.child import Child
from export.pipeline.tasks import Identity, Job, SelfTestTask
task = SelfTestTask(identity=Identity(kind="self-test", label="x", key="k", inputs={}), package_key="package")
child = Child(Job(cache=sys.argv[1], task=task), Path(sys.argv[1], "log"))
select.select([child], [], [])
"""


def test_a_step_ends_with_its_build(tmp_path: Path) -> None:
    """The step holds one key and waits for another, which nobody gives it, so only its end sets the first one free."""
    cache = Cache(tmp_path)
    with cache.making("package"):
        build = subprocess.Popen([sys.executable, "-c", LAUNCH, str(tmp_path)], cwd=ROOT)
        while not (tmp_path / "partial/k/files").is_dir():
            time.sleep(0.05)
        build.kill()
        build.wait()
        with cache.making("k"):
            pass


COMMAND = """
import sys
from export.pipeline.command import run_command
run_command(["build", sys.argv[1]])
"""


def test_a_command_ends_with_its_step(tmp_path: Path) -> None:
    """The command waits for what nobody writes into a pipe; only its end closes that."""
    os.mkfifo(tmp_path / "pipe")
    step = subprocess.Popen([sys.executable, "-c", COMMAND, str(tmp_path / "pipe")], cwd=ROOT)
    writing = os.open(tmp_path / "pipe", os.O_WRONLY)  # when the command has opened it
    step.kill()
    step.wait()
    with pytest.raises(BrokenPipeError):
        write_until_nobody_reads(writing)
    os.close(writing)


def write_until_nobody_reads(writing: int) -> None:
    while True:
        os.write(writing, b" ")
        time.sleep(0.05)
