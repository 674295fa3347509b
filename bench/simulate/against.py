"""A measured load of ``powertrain bench http`` -> the same load simulated, and how far the two are apart.

Reads a result file's settings; what a simulation cannot play (rates, recorded chats, traces) is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.errors import BenchError
from bench.http.lengths import parse_lengths
from bench.report.results import Point, Report, over_repeats
from bench.report.tables import Table, number
from bench.simulate.conversations import ConversationKind, Spread
from bench.simulate.summary import Outcome

MOST_APART = 0.15
"""The largest relative difference that counts as agreement."""
_FIGURES = {"output_tps": "output_tps", "ttft.p50": "ttft_p50_ms"}


@dataclass(frozen=True, slots=True)
class MeasuredLoad:
    """A closed loop as it was measured, of ``requests`` in all. ``figures`` by their names in ``Outcome``."""

    kind: ConversationKind
    users: int
    requests: int
    figures: dict[str, float]


def measured_load(report: Report) -> MeasuredLoad:
    """The one point of a report.

    Raises BenchError when it holds several points, or a load that is no closed loop of made texts.
    """
    users = report.points[0].concurrency if len(report.points) == 1 else None
    if users is None:
        raise BenchError("the measurement must hold one point of --concurrency; measure again with one number of it")
    point, settings = report.points[0], report.settings
    if settings.get("chats") or settings.get("trace"):
        raise BenchError(
            "recorded chats and traces are not simulated; measure with --prompt-tokens and --output-tokens"
        )
    if not settings.get("ignore_eos"):
        raise BenchError("answers that end by themselves have unknown lengths; measure with --ignore-eos")
    _one_length(settings, "prompt_tokens")
    turns, answer = int(settings.get("turns", 1)), _one_length(settings, "output_tokens")
    question, opening = _prompt(point, turns, answer)
    kind = ConversationKind(
        question=Spread(question, 0.0),
        answer=Spread(answer, 0.0),
        turns=float(turns),
        think_s=float(settings.get("think_time", 0.0)),
        opening_tokens=round(opening),
        fixed_turns=True,
        fixed_think=True,
    )
    figures = {
        ours: value for theirs, ours in _FIGURES.items() if (value := over_repeats(point, theirs)[0]) is not None
    }
    return MeasuredLoad(kind, users, sum(run.measurement.outcomes["ok"] for run in point.runs), figures)


def _one_length(settings: dict[str, Any], name: str) -> float:
    lengths = parse_lengths(str(settings.get(name, "")))
    if lengths.std or lengths.low != lengths.high:
        raise BenchError("lengths that vary are not simulated alike; measure with one number of tokens each")
    return lengths.mean


def _prompt(point: Point, turns: int, answer: float) -> tuple[float, float]:
    """Tokens that each turn adds before its answer, and those that all conversations begin with.

    The chat template adds to both, so they are read from how the prompts that were counted grow: from the first turn's,
    the shortest, to the last one's. A single turn does not tell what of it is shared.
    """
    counted = point.runs[0].measurement.distributions.get("input_tokens")
    if counted is None:
        raise BenchError("the measurement holds no numbers of prompt tokens; measure an endpoint that reports usage")
    if turns == 1:
        return counted.max, 0.0
    question = (counted.max - counted.min) / (turns - 1) - answer
    return question, counted.min - question


def agreement(measured: MeasuredLoad, simulated: Outcome) -> tuple[Table, bool]:
    """Measured beside simulated, and whether every figure lies within ``MOST_APART``."""
    rows, agrees = [], True
    for name, value in measured.figures.items():
        found = float(getattr(simulated, name))
        apart = found / value - 1.0 if value else float("inf")
        agrees = agrees and abs(apart) <= MOST_APART
        rows.append((name, number(value), number(found), f"{100 * apart:+.0f} %"))
    title = f"Measured and simulated, which may be {100 * MOST_APART:.0f} % apart"
    return Table(title, ("figure", "measured", "simulated", "apart"), tuple(rows)), agrees
