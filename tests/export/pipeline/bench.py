"""``python -m tests.export.pipeline.bench``: what building a matrix of packages and plans takes, and building nothing.

Two models (the default one's weights, and random weights of a Qwen2 in a Hugging Face folder) in three precisions for
three targets (the CPU and two GPUs, which TensorRT for RTX compiles for without one): 24 graphs and plans. Built once
with as many steps at a time as there are CPUs; then several times with nothing to do; and once more into another
cache, step by step, which gives each step's own time and CPU time. Every build is a process of ``powertrain build``.

No schedule of the same steps is shorter than the longest chain of steps that wait for each other, nor than the CPU
time of all of them on all CPUs. What the first build took is compared with the larger of the two.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from export.commands.build import NOTHING_TO_DO
from export.pipeline.schedule import Load, ways_to_the_end
from export.pipeline.setup import prepare
from export.progress import SilentReporter
from export.source.opener import open_source
from export.source.recipe import load_recipe
from tests.export.tiny_models import tiny_config, tiny_tensors, write_tiny_folder
from tests.paths import MODELS, ROOT

_RECIPE = MODELS / "smollm2-135m-instruct.toml"
_SAMPLE_SECONDS = 0.5
_NO_OPS = 5
_TICKS = os.sysconf("SC_CLK_TCK")

_SECOND_MODEL = {
    "hidden_size": 384,
    "num_hidden_layers": 10,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 1024,
    "max_position_embeddings": 2048,
}
"""34 million weights with the default model's tokenizer. Drawn at random, so only what it takes counts."""

_SMALLER = np.float32(0.1)
"""What the drawn matrices are multiplied by, which were meant for narrow layers: probabilities stay like a model's, and
comparing them does not slow down in denormal numbers."""

_DEFAULT_MODEL = f"""
[[model]]
model = "{_RECIPE}"
name = "smollm2"
max_kl = 2.0
"""
_MATRIX = """
[[model]]
model = "random"
max_kl = 2.0

[[target]]
name = "sm89"

[[target]]
name = "sm120"
"""
_PRECISIONS = ("int8", "int4", "fp16")
_PER_PACKAGE = 2 + 2
"""Graphs for the CPU and for TensorRT, and plans."""


@dataclass(slots=True)
class Seen:
    """What a build's processes were seen to take, looked at twice a second. ``cpu_seconds`` are those of each step's
    process, in starting order.

    ``peak_bytes`` is the sum of all processes' proportional set sizes (PSS), at its highest: pages that several
    share, code for the most part, count once.
    """

    peak_bytes: int = 0
    cpu_seconds: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Built:
    """A build: ``seconds`` by the clock, of CPU time with all that it started, and each step's by the clock.

    ``lost_seconds`` are CPU time that others had meanwhile: other processes here, and whoever shares the host.
    """

    seconds: float
    cpu_seconds: float
    lost_seconds: float
    seen: Seen
    steps: dict[str, float]


def make_pipeline(folder: Path, *, quick: bool) -> Path:
    """The pipeline's file and the random model in ``folder``. Fetches the default model's weights if need be."""
    checkpoint = open_source(load_recipe(_RECIPE), MODELS, SilentReporter()).checkpoint
    tokenizer, vocab_size = checkpoint.text_files().tokenizer_json, checkpoint.spec.vocab_size
    changes = {**_SECOND_MODEL, "vocab_size": vocab_size}
    tensors = tiny_tensors(tiny_config("qwen2") | changes)
    tensors |= {name: value * _SMALLER for name, value in tensors.items() if value.ndim == 2}
    write_tiny_folder(folder / "random", "qwen2", tensors=tensors, changes=changes)
    (folder / "random/tokenizer.json").write_text(tokenizer, encoding="utf-8")
    path = folder / "matrix.toml"
    words = ", ".join(f'"{name}"' for name in _PRECISIONS)
    path.write_text(f"precisions = [{words}]\n{'' if quick else _DEFAULT_MODEL}{_MATRIX}", encoding="utf-8")
    return path


def build(pipeline: Path, place: Path, *flags: str) -> Built:
    """``powertrain build`` of ``pipeline``, packages and cache in ``place``. Raises CalledProcessError if it fails."""
    report = place.with_suffix(".json")
    text = f'output = "{place}/packages"\ncache = "{place}/steps"\n{pipeline.read_text(encoding="utf-8")}'
    own = pipeline.with_name(f"{place.name}.toml")
    own.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "powertrain", "build", str(own), "--report", str(report), *flags]
    before, busy, started = os.times(), _busy_seconds(), time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) as process:
        seen, over = Seen(), threading.Event()
        watcher = threading.Thread(target=_watch, args=(process.pid, seen, over))
        watcher.start()
        _, errors = process.communicate()
        seconds, busy = time.perf_counter() - started, _busy_seconds() - busy
        over.set()
        watcher.join()
    if process.returncode:
        sys.stderr.buffer.write(errors)
        raise subprocess.CalledProcessError(process.returncode, command)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    steps = {f"{one['kind']} {one['label']}": one["seconds"] for one in json.loads(report.read_bytes())["steps"]}
    return Built(seconds, cpu, max(0.0, busy - cpu), seen, steps)


def _busy_seconds() -> float:
    """CPU seconds since the machine's start in which a CPU did not wait: here, or for others on the host (stolen)."""
    user, nice, system, _idle, _iowait, irq, softirq, stolen = Path("/proc/stat").read_text("utf-8").split()[1:9]
    return sum(int(ticks) for ticks in (user, nice, system, irq, softirq, stolen)) / _TICKS


def nothing_to_do(pipeline: Path, place: Path) -> float:
    """Seconds of ``powertrain build`` where all is there, nothing watching it. Raises CalledProcessError otherwise."""
    command = [sys.executable, "-m", "powertrain", "build", str(pipeline.with_name(f"{place.name}.toml"))]
    started = time.perf_counter()
    status = subprocess.run(
        [*command, "--detailed-exit-code"], cwd=ROOT, stderr=subprocess.DEVNULL, check=False
    ).returncode
    seconds = time.perf_counter() - started
    if status != NOTHING_TO_DO:
        raise subprocess.CalledProcessError(status, command)
    return seconds


def _watch(pid: int, seen: Seen, over: threading.Event) -> None:
    while not over.wait(_SAMPLE_SECONDS):
        steps = _children(pid)
        family = [pid, *steps]
        for one in steps:
            family += _children(one)
        seen.peak_bytes = max(seen.peak_bytes, sum(_proportional_bytes(one) for one in family))
        for step in steps:
            seen.cpu_seconds[step] = max(_cpu_seconds(step), seen.cpu_seconds.get(step, 0.0))


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):  # it, or one of its threads, has ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(word) for word in (task / "children").read_text(encoding="ascii").split()]
    return sorted(found)


def _stat(pid: int) -> list[str]:
    """Fields of a process from its state on; none if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return []


def _cpu_seconds(pid: int) -> float:
    return sum(int(field) for field in _stat(pid)[11:15]) / _TICKS


def _proportional_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def least_seconds(needs: Mapping[str, Sequence[str]], built: Built, cpus: int) -> tuple[float, float]:
    """(The longest chain of steps, the CPU time of all on ``cpus``) of a build of one step at a time."""
    loads = [Load(name, tuple(needs[name]), built.steps[name], None) for name in needs]
    return max(ways_to_the_end(loads).values()), built.cpu_seconds / cpus


def _summary(name: str, built: Built, memory_mib: int) -> str:
    return (
        f"{name}: {built.seconds:.1f} s, {built.cpu_seconds:.1f} s of CPU time; peak memory "
        f"{built.seen.peak_bytes / 2**20:,.0f} MiB of {memory_mib:,}; others had {built.lost_seconds:.1f} s of CPU time"
    )


def _table(alone: Built, together: Built) -> list[str]:
    lines = ["| step | alone, s | CPU, s | beside others, s |", "| --- | ---: | ---: | ---: |"]
    for (name, seconds), spent in zip(alone.steps.items(), alone.seen.cpu_seconds.values(), strict=True):
        lines.append(f"| {name} | {seconds:.1f} | {spent:.1f} | {together.steps[name]:.1f} |")
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory-mib", type=int, default=6000, help="the builds' budget (6000)")
    parser.add_argument("--quick", action="store_true", help="the random model alone")
    parser.add_argument("--folder", type=Path, help="a folder to work in, which is left as it is; else a temporary one")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="bench-build-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        measure(folder.absolute(), arguments.memory_mib, quick=arguments.quick)
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder)


def measure(folder: Path, memory_mib: int, *, quick: bool) -> None:
    """All builds in ``folder``, with a budget of ``memory_mib``; each is told of when it is over."""
    pipeline, cpus = make_pipeline(folder, quick=quick), len(os.sched_getaffinity(0))
    budget = ("--memory-mib", str(memory_mib))
    together = build(pipeline, folder / "together", "--jobs", str(cpus), *budget)
    _tell(_summary(f"{cpus} steps at a time", together, memory_mib))
    idle = sorted(nothing_to_do(pipeline, folder / "together") for _ in range(_NO_OPS))
    artifacts = _PER_PACKAGE * len(_PRECISIONS) * (1 if quick else 2)
    _tell(f"nothing to do, {artifacts} graphs and plans: {statistics.median(idle):.2f} s "
          f"({idle[0]:.2f} to {idle[-1]:.2f}, {len(idle)} runs)")  # fmt: skip
    alone = build(pipeline, folder / "alone", "--jobs", "1", *budget)
    _tell(_summary("one step at a time", alone, memory_mib))
    needs = {step.name: step.needs for step in prepare(folder / "together.toml", folder).steps}
    chain, work = least_seconds(needs, alone, cpus)
    _tell(f"at least: {max(chain, work):.1f} s (longest chain {chain:.1f} s, CPU time on {cpus} CPUs {work:.1f} s); "
          f"took {together.seconds / max(chain, work):.3f} times that")  # fmt: skip
    _tell("\n".join(["", *_table(alone, together)]))


def _tell(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
