"""Gates: what a package, or a plan of it, must measure up to. Owns their expressions and what comes of them.

A gate is a metric and a bound. A bound is ``NUMBER``, ``NUMBER * baseline``, ``baseline + NUMBER`` or ``baseline -
NUMBER``, and of a size a NUMBER may have a unit, ``150 MiB``. A gate whose figure, or whose baseline, is missing is not
measured, and passes only where the file says so. Measures nothing and knows no step.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from export.errors import PipelineError
from export.pipeline.amounts import NUMBER, exact_size_text, parse_size

Measures = Mapping[str, float]
"""Metric -> value."""
Subject = tuple[str, str | None]
"""A package's name, and the target of the plan that is meant, if one is."""
Unmeasured = Literal["fail", "report"]


@dataclass(frozen=True, slots=True)
class Metric:
    """What a key of ``[[gate]]`` holds. ``of_plans``: plans have it as well."""

    name: str
    words: str
    is_most: bool
    of_plans: bool = False


METRICS = {
    "max_kl": Metric("kl", "mean KL [nats per token]", is_most=True, of_plans=True),
    "max_size": Metric("size", "size", is_most=True, of_plans=True),
    "max_perplexity": Metric("perplexity", "perplexity", is_most=True),
    "max_bits_per_byte": Metric("bits_per_byte", "bits per byte", is_most=True),
    "min_accuracy": Metric("accuracy", "accuracy", is_most=False),
    "min_tokens_per_s": Metric("tokens_per_s", "tokens per second", is_most=False, of_plans=True),
}
"""Key of the file -> metric."""

_RELATIVE = re.compile(
    rf"\s*(?:(?P<factor>{NUMBER})\s*\*\s*)?baseline\s*(?:(?P<sign>[+-])\s*(?P<offset>{NUMBER}(?:\s*[A-Za-z]+)?)\s*)?"
)


@dataclass(frozen=True, slots=True)
class Bound:
    """``factor * baseline + offset``; ``factor`` None knows no baseline. ``text`` is as in the file."""

    text: str
    factor: float | None
    offset: float

    def limit(self, baseline: float | None) -> float | None:
        """The number that the figure is held to; None where the baseline is needed and missing."""
        if self.factor is None:
            return self.offset
        return None if baseline is None else self.factor * baseline + self.offset


@dataclass(frozen=True, slots=True)
class Gate:
    """One key of a ``[[gate]]``, for one package or one plan."""

    key: str
    target: str | None
    bound: Bound
    unmeasured: Unmeasured

    @property
    def metric(self) -> Metric:
        """What it holds."""
        return METRICS[self.key]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a gate. ``limit`` and ``measured`` are in the metric's unit, bytes for a size; None is unknown.

    ``passes`` is whether the build may end well: ``held``, or not measured where the file lets that pass.
    """

    gate: str
    target: str | None
    wanted: str
    limit: float | None
    measured: float | None
    outcome: Literal["held", "broken", "not measured"]
    passes: bool
    text: str


def parse_bound(key: str, value: float | str, where: str) -> Bound:
    """A bound as a file has it. Raises PipelineError that begins with ``where``."""
    is_size = METRICS[key].name == "size"
    number = float(value) if not isinstance(value, str) else _number(value, is_size)
    if number is not None:
        if not (math.isfinite(number) and number >= 0):
            raise PipelineError(f"{where}, key {key!r}: {value} is no limit; give a number from 0 on")
        return Bound(value if isinstance(value, str) else f"{value:g}", None, number)
    found = _RELATIVE.fullmatch(str(value))
    offset = 0.0 if found is None or found["offset"] is None else _number(found["offset"], is_size)
    if found is None or offset is None:
        unit = ", a size with a unit, such as '150 MiB'," if is_size else ""
        raise PipelineError(
            f"{where}, key {key!r}: {value!r} is no limit; give a number{unit} or one that counts from the baseline: "
            "'1.05 * baseline', 'baseline + 0.01' or 'baseline - 0.01'"
        )
    sign = -1.0 if found["sign"] == "-" else 1.0
    return Bound(str(value), float(found["factor"] or 1.0), sign * offset)


def _number(text: str, is_size: bool) -> float | None:
    if is_size:
        return parse_size(text)
    return float(text) if re.fullmatch(rf"\s*{NUMBER}\s*", text) else None


def held_to(
    gates: Sequence[Gate], package: str, measured: Mapping[Subject, Measures], baseline: Mapping[Subject, Measures]
) -> list[Finding]:
    """What comes of a package's gates, in their order."""
    return [
        _finding(gate, measured.get((package, gate.target), {}), baseline.get((package, gate.target), {}))
        for gate in gates
    ]


def _finding(gate: Gate, measured: Measures, baseline: Measures) -> Finding:
    value, limit = measured.get(gate.metric.name), gate.bound.limit(baseline.get(gate.metric.name))
    return Finding(
        gate=gate.key,
        target=gate.target,
        wanted=gate.bound.text,
        limit=limit,
        measured=value,
        outcome=(outcome := _outcome(gate.metric, value, limit)),
        passes=outcome == "held" or (outcome == "not measured" and gate.unmeasured == "report"),
        text=_explained(gate, value, limit),
    )


def _outcome(metric: Metric, value: float | None, limit: float | None) -> Literal["held", "broken", "not measured"]:
    if value is None or limit is None:
        return "not measured"
    is_held = value <= limit if metric.is_most else value >= limit  # a figure that is no number holds nothing
    return "held" if is_held else "broken"


def _explained(gate: Gate, value: float | None, limit: float | None) -> str:
    """``size is 182.00 MiB, max_size is 150 MiB``, or what is missing."""
    what = gate.metric.words + (f" on {gate.target}" if gate.target else "")
    if value is None:
        return f"{what} was not measured, {gate.key} is {gate.bound.text}"
    is_what = f"{what} is {amount_text(gate.metric, value)}, {gate.key} is {gate.bound.text}"
    if limit is None:
        return f"{is_what}, and the baseline has no such figure; give the JSON of an earlier build with --baseline"
    return is_what if gate.bound.factor is None else f"{is_what} = {amount_text(gate.metric, limit)}"


def amount_text(metric: Metric, value: float) -> str:
    """A figure with its unit, if it has one beyond its words."""
    return exact_size_text(value) if metric.name == "size" else f"{value:.4g}"
