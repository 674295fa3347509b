"""Single-stream latency of this runtime, OpenVINO GenAI and ONNX Runtime GenAI, in process, in alternating rounds.

Each measurement is a process of its own: libraries that bring their own thread pools must not meet in one. llama.cpp
is not among them: its server is measured over HTTP, beside ours.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from bench.errors import BenchError
from bench.metrics.stats import Interval, ratio_interval
from bench.peers import genai, genai_probe, openvino_probe, own_probe
from bench.peers.making import environment, run
from bench.peers.terms import OUTPUT_TOKENS, PROMPT_TOKENS, REPETITIONS
from bench.report.tables import Table, number

OPENVINO = "openvino-genai==2026.4.1.0"


class Probe(msgspec.Struct, frozen=True):
    """What a probe prints: one value per repetition, ms."""

    ttft_ms: list[float]
    tpot_ms: list[float]


def compare_in_process(
    package: Path,
    gguf: Path,
    folder: Path,
    *,
    precisions: Sequence[str],
    threads: int,
    rounds: int,
    say: Callable[[str], None],
) -> Table:
    """Medians over alternating rounds, and the ratios ours / theirs with their 95 % intervals. BenchError.

    ``precisions`` are those in which ONNX Runtime GenAI's builder makes the model.
    """
    commands = {"powertrain": own_command(package, threads)}
    python = environment(folder / "openvino", (OPENVINO,), say)
    label = f"{OPENVINO.replace('==', ' ')} (same file)"
    commands[label] = peer_command([*python, str(openvino_probe.__file__), str(gguf)], threads)
    if precisions:
        python = genai.python(folder, say)
        for precision, model in genai.models(gguf, precisions, folder, python, say).items():
            probe = [*python, str(genai_probe.__file__), str(model)]
            commands[genai.label(precision)] = peer_command(probe, threads)
    results: dict[str, list[Probe]] = {name: [] for name in commands}
    for number_of_round in range(rounds):
        for name, command in commands.items():
            say(f"round {number_of_round + 1}: {name}")
            results[name].append(read_probe(run(command, f"{name} could not be measured"), name))
    return in_process_table(results)


def own_command(package: Path, threads: int) -> list[str]:
    """The command that measures ``package``."""
    return [sys.executable, str(own_probe.__file__), str(package), str(threads), str(REPETITIONS)]


def peer_command(probe: Sequence[str], threads: int) -> list[str]:
    """A peer's probe, told what ours knows: a probe in another environment cannot import it."""
    return [*probe, *(str(term) for term in (threads, REPETITIONS, PROMPT_TOKENS, OUTPUT_TOKENS))]


def read_probe(output: str, name: str) -> Probe:
    """The result on the last line that a probe printed; libraries may print before it. BenchError."""
    lines = output.strip().splitlines() or ["nothing"]
    try:
        probe = msgspec.json.decode(lines[-1], type=Probe)
    except msgspec.MsgspecError as error:
        raise BenchError(f"{name} printed no result: {lines[-1]}") from error
    if not len(probe.ttft_ms) == len(probe.tpot_ms) == REPETITIONS:
        raise BenchError(
            f"{name} printed {len(probe.ttft_ms)} and {len(probe.tpot_ms)} values instead of {REPETITIONS}"
        )
    return probe


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
    title = f"In process, one request: {PROMPT_TOKENS} tokens in, {OUTPUT_TOKENS} out"
    return Table(title, ("runtime", "TTFT [ms]", "ours / its", "TPOT [ms]", "ours / its"), tuple(rows))


def _ratio_text(ratio: Interval | None) -> str:
    return "-" if ratio is None else f"{ratio.centre:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
