"""What the measuring commands say of a package, as the facts of a step. How they measure is theirs."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TypeVar

import msgspec

from export.errors import StepError
from export.pipeline.command import run_command

_T = TypeVar("_T")
_PREFILL, _DECODE, _REPETITIONS = 128, 32, 5


class _Evaluation(msgspec.Struct, frozen=True):
    accuracy: float
    accuracy_error: float
    bits_per_byte: float
    num_questions: int


class _Speed(msgspec.Struct, frozen=True):
    name: str
    samples: list[float]


class _EngineReport(msgspec.Struct, frozen=True):
    speeds: list[_Speed]


def evaluated(folder: Path) -> dict[str, str]:
    """Facts of ``powertrain eval`` on the CPU: shares and bits. Raises StepError."""
    result = _read(run_command(["eval", str(folder), "--json"]), _Evaluation)
    return {name: repr(value) for name, value in msgspec.structs.asdict(result).items()}


def benchmarked(folder: Path, backend: str, target: str | None) -> dict[str, str]:
    """Facts of ``powertrain bench engine``: tokens per second of one sequence, medians. Raises StepError."""
    words = ["bench", "engine", str(folder), "--json", "--no-breakdown", "--backend", backend, "-b", "1"]
    words += ["-p", str(_PREFILL), "-n", str(_DECODE), "-r", str(_REPETITIONS)]
    report = _read(run_command(words), _EngineReport)
    facts = {}
    for test, name in (("pp", "prefill_tokens_per_s"), ("tg", "tokens_per_s")):  # as llama-bench calls them
        samples = next((speed.samples for speed in report.speeds if speed.name.startswith(test)), None)
        if not samples:
            raise StepError(f"'powertrain bench engine' measured no {name}")
        facts[name] = repr(median(samples))
    return facts if target is None else facts | {"target": target}


def _read(data: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise StepError(f"what a command measured is not readable: {error}") from error
