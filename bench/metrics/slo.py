"""Service objectives per request, as ``--goodput`` and ``--slo`` name them. Judges nothing itself.

The presets are MLPerf Inference's server limits (mlcommons/inference, loadgen/mlperf.conf): there they bind the 99th
percentile, here they also judge each request.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.errors import BenchError

# What may be limited, by every name that users of AIPerf and vLLM know, with this project's key.
_ALIASES = {
    "ttft": "ttft",
    "time_to_first_token": "ttft",
    "tpot": "tpot",
    "inter_token_latency": "tpot",
    "e2el": "request_latency",
    "request_latency": "request_latency",
    "ttfo": "ttfo",
    "ttst": "ttst",
    "ntpot": "ntpot",
}


@dataclass(frozen=True, slots=True)
class Objective:
    """A request is good when its metric ``key`` is at most ``limit_ms``."""

    key: str
    limit_ms: float


def _preset(ttft_ms: float, tpot_ms: float) -> tuple[Objective, ...]:
    return Objective("ttft", ttft_ms), Objective("tpot", tpot_ms)


PRESETS: dict[str, tuple[Objective, ...]] = {
    "mlperf-llama3.1-8b-server": _preset(2000, 100),
    "mlperf-llama3.1-8b-interactive": _preset(500, 30),
    "mlperf-llama2-70b-server": _preset(2000, 200),
    "mlperf-llama2-70b-interactive": _preset(450, 40),
    "mlperf-gpt-oss-120b-server": _preset(3000, 80),
    "mlperf-gpt-oss-120b-interactive": _preset(2000, 15),
    "mlperf-deepseek-r1-server": _preset(2000, 80),
    "mlperf-deepseek-r1-interactive": _preset(1500, 15),
}


def parse_objectives(text: str) -> tuple[Objective, ...]:
    """Parse ``"ttft:200 tpot:50"`` (milliseconds). Raises BenchError naming the bad part and the known names."""
    objectives = []
    for part in text.replace(",", " ").split():
        name, _, value = part.partition(":")
        key = _ALIASES.get(name)
        try:
            limit_ms = float(value)
        except ValueError:
            limit_ms = 0.0
        if key is None or not limit_ms > 0:
            raise BenchError(
                f"objective {part!r} is not NAME:MILLISECONDS with a name of {', '.join(sorted(_ALIASES))}"
            )
        objectives.append(Objective(key, limit_ms))
    return tuple(objectives)


def preset(name: str) -> tuple[Objective, ...]:
    """The objectives of a named preset. Raises BenchError listing the names."""
    if name not in PRESETS:
        raise BenchError(f"no preset {name!r}; known: {', '.join(PRESETS)}")
    return PRESETS[name]
