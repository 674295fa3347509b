"""How long an engine's calls take: measured by ``powertrain bench engine``, interpolated between what was measured.

A decode step's time is read from a grid of batch and context depth; a prompt's from its number of tokens and the depth
that it starts at. Knows no scheduler. Times are seconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from bench.errors import BenchError
from bench.in_process.engine_report import EngineReport, SpeedTest

Place = TypeVar("Place")

_DECODE = re.compile(r"tg\d+ b(\d+)(?:@d(\d+))?")
_PREFILL = re.compile(r"pp(\d+)(?:@d(\d+))?")


@dataclass(frozen=True, slots=True)
class StepTimes:
    """A decode step of ``batch`` rows whose mean context is ``depth``: bilinear in the grid ``decode_s`` [B, D].

    A prompt token at ``depth`` takes ``prefill_s`` [D]. Beyond a grid's ends its last slope goes on: attention's share
    grows with the context, and a step with its rows. ``step_overhead_s`` is the engine's own work on every step.
    ``threads`` are those that all this was measured with.
    """

    name: str
    batches: tuple[float, ...]
    depths: tuple[float, ...]
    decode_s: tuple[tuple[float, ...], ...]
    prefill_s: tuple[float, ...]
    step_overhead_s: float = 0.0
    threads: int = 1
    # Decode times by depth of each batch asked for: a simulation asks for the same few a million times.
    _rows: dict[int, tuple[float, ...]] = field(default_factory=dict, compare=False, repr=False)

    def decode(self, batch: int, depth: float) -> float:
        """Seconds of one decode step of ``batch`` rows, each with about ``depth`` tokens before it."""
        row = self._rows.get(batch)
        if row is None:
            columns = zip(*self.decode_s, strict=True)
            row = self._rows[batch] = tuple(_line(batch, self.batches, column) for column in columns)
        return max(_line(depth, self.depths, row), 0.0)

    def prefill(self, num_tokens: int, depth: float) -> float:
        """Seconds of computing ``num_tokens`` of a prompt, the first at ``depth``."""
        return num_tokens * max(_line(depth + num_tokens / 2, self.depths, self.prefill_s), 0.0)


def step_times(reports: Sequence[EngineReport]) -> StepTimes:
    """The times that reports of one model hold, each the mean over those: a machine's speed drifts between two runs.

    Raises BenchError where they have no decode or no prefill test in common, or are not of the same model and threads.
    A depth that lacks a batch, or the prefill, is left out. The longest prefill of a depth counts: it has the least
    of a call's fixed costs in it, as chunks in a busy engine do.
    """
    names = {f"{report.model}, {report.threads} threads" for report in reports}
    if len(names) > 1:
        raise BenchError(f"the engine's results are of {' and of '.join(sorted(names))}; give those of one model")
    decodes = _means([_decodes(report) for report in reports])
    prefills = _means([_prefills(report) for report in reports])
    batches = sorted({batch for batch, _ in decodes})
    depths = sorted(depth for depth in prefills if all((batch, depth) in decodes for batch in batches))
    if not batches or not depths:
        raise BenchError(
            "the engine's result holds no decode and prefill tests at a common depth; run 'powertrain bench engine "
            "MODEL -b 1,4,16 -d 0,1024 -p 512'"
        )
    return StepTimes(
        name=names.pop(),
        batches=tuple(map(float, batches)),
        depths=tuple(float(depth) for depth in depths),
        decode_s=tuple(tuple(decodes[batch, depth] for depth in depths) for batch in batches),
        prefill_s=tuple(prefills[depth] for depth in depths),
        step_overhead_s=float(np.mean([_overhead_s(report) for report in reports])),
        threads=reports[0].threads,
    )


def _decodes(report: EngineReport) -> dict[tuple[int, int], float]:
    """Seconds of a decode step by batch and depth."""
    return {found: test.step_ms / 1e3 for test in report.speeds if (found := _decode_place(test))}


def _prefills(report: EngineReport) -> dict[int, float]:
    """Seconds of a prompt's token by depth."""
    longest: dict[int, tuple[int, float]] = {}
    for test in report.speeds:
        if (place := _prefill_place(test)) is not None:
            tokens, depth = place
            longest[depth] = max(longest.get(depth, (0, 0.0)), (tokens, 1.0 / test.median_tps))
    return {depth: seconds for depth, (_, seconds) in longest.items()}


def _means(found: Sequence[Mapping[Place, float]]) -> dict[Place, float]:
    """The mean of what all of them hold."""
    return {key: float(np.mean([one[key] for one in found])) for key in found[0] if all(key in one for one in found)}


def _overhead_s(report: EngineReport) -> float:
    """What the engine adds to the model's run, from the report's whole steps; 0 where it has none."""
    found = [step.overhead_us / 1e6 for step in report.breakdowns]
    return float(np.median(found)) if found else 0.0


def _decode_place(test: SpeedTest) -> tuple[int, int] | None:
    found = _DECODE.fullmatch(test.name)
    return None if found is None else (int(found[1]), int(found[2] or 0))


def _prefill_place(test: SpeedTest) -> tuple[int, int] | None:
    found = _PREFILL.fullmatch(test.name)
    return None if found is None else (int(found[1]), int(found[2] or 0))


def _line(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """The value at ``x`` of the straight lines between points; outside, of the nearest line. One point is constant."""
    if len(xs) == 1:
        return ys[0]
    right, last = 1, len(xs) - 1
    while right < last and x > xs[right]:
        right += 1
    share = (x - xs[right - 1]) / (xs[right] - xs[right - 1])
    return ys[right - 1] + share * (ys[right] - ys[right - 1])
