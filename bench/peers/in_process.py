"""Single-stream latency of this runtime and of OpenVINO GenAI, both in process, in rounds that alternate.

Each measurement is a process of its own: libraries that bring their own thread pools must not meet in one.
"""

from __future__ import annotations

import sys
import venv
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from bench.errors import BenchError
from bench.peers import openvino_probe, own_probe
from bench.peers.llama_cpp import run
from bench.stats import Interval, ratio_interval
from bench.tables import Table, number

OPENVINO = "openvino-genai==2026.4.1.0"
_REPETITIONS = 5


class Probe(msgspec.Struct, frozen=True):
    """What a probe prints: one value per repetition, ms."""

    ttft_ms: list[float]
    tpot_ms: list[float]


def openvino_python(folder: Path, say: Callable[[str], None]) -> Path:
    """The interpreter of an environment with OpenVINO GenAI, made once. BenchError."""
    home = folder / "openvino"
    python = home / "bin" / "python"
    if not (home / "ready").is_file():
        say(f"installing {OPENVINO}")
        venv.create(home, with_pip=True, clear=True)
        run([str(python), "-m", "pip", "install", "--quiet", OPENVINO], "pip could not install OpenVINO GenAI")
        (home / "ready").touch()
    return python


def compare_in_process(
    package: Path, gguf: Path, folder: Path, *, threads: int, rounds: int, say: Callable[[str], None]
) -> Table:
    """Medians over alternating rounds, and the ratios ours / theirs with their 95 % intervals. BenchError."""
    python = openvino_python(folder, say)
    words = {
        "powertrain": [sys.executable, str(own_probe.__file__), str(package)],
        f"{OPENVINO.replace('==', ' ')} (same file)": [str(python), str(openvino_probe.__file__), str(gguf)],
    }
    results: dict[str, list[Probe]] = {name: [] for name in words}
    for number_of_round in range(rounds):
        for name, command in words.items():
            say(f"round {number_of_round + 1}: {name}")
            results[name].append(_probe([*command, str(threads), str(_REPETITIONS)], name))
    return in_process_table(results)


def in_process_table(results: dict[str, list[Probe]]) -> Table:
    """One row per runtime; the first is ours."""
    ours = next(iter(results.values()))
    rows = []
    for name, probes in results.items():
        cells = []
        for key in ("ttft_ms", "tpot_ms"):
            medians, own = ([float(np.median(getattr(probe, key))) for probe in side] for side in (probes, ours))
            cells += [number(float(np.median(medians))), _ratio_text(ratio_interval(own, medians))]
        rows.append((name, *cells))
    title = f"In process, one request: {openvino_probe.PROMPT_TOKENS} tokens in, {openvino_probe.OUTPUT_TOKENS} out"
    return Table(title, ("runtime", "TTFT [ms]", "ours / its", "TPOT [ms]", "ours / its"), tuple(rows))


def _probe(words: list[str], name: str) -> Probe:
    lines = run(words, f"{name} could not be measured").strip().splitlines()
    try:
        return msgspec.json.decode(lines[-1] if lines else "", type=Probe)
    except msgspec.MsgspecError as error:
        raise BenchError(f"{name} printed no result: {lines[-1] if lines else 'nothing'}") from error


def _ratio_text(ratio: Interval | None) -> str:
    return "-" if ratio is None else f"{ratio.centre:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
