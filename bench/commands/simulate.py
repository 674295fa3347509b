"""`powertrain bench simulate`: its words and flags. What they do is simulate_run's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click
from runtime.commands.comma_list import COMMA_LIST
from runtime.commands.help_text import examples

_FLEET, _HOST, _TALK, _RESULT = "Fleet", "Shared cores", "Conversations", "Result"


@click.command(
    "simulate",
    epilog=examples(
        "powertrain bench simulate --replicas 1,8,64",
        "powertrain bench simulate results/engine.json --replicas 1000 --seconds 60",
        "powertrain bench simulate results/engine.json --replicas 8 --lose-at 200",
        "powertrain bench simulate results/engine.json --replicas 2 --against results/report.json",
    ),
)
@click.argument("files", metavar="[FILE]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--replicas", panel=_FLEET, default=("1,2,8,64",), **COMMA_LIST, show_default=True,
              help="Numbers of replicas.")  # fmt: skip
@click.option("--policy", panel=_FLEET, default=("affinity,least-loaded,round-robin",), **COMMA_LIST, show_default=True,
              help="How a request gets its replica.")  # fmt: skip
@click.option("--slots", panel=_FLEET, type=click.IntRange(1, 4096), default=16, show_default=True,
              help="Requests that a replica runs at once.")  # fmt: skip
@click.option("--max-model-len", panel=_FLEET, type=click.IntRange(16), default=8192, show_default=True,
              help="Tokens of a slot.")  # fmt: skip
@click.option("--prefill-chunk-tokens", panel=_FLEET, type=click.IntRange(16), default=128, show_default=True,
              help="Prompt tokens per step while others decode.")  # fmt: skip
@click.option("--hop-ms", panel=_FLEET, type=click.FloatRange(0), default=0.0, show_default=True,
              help="What proxy and front add to the time to first token.")  # fmt: skip
@click.option("--price-per-hour", panel=_FLEET, type=click.FloatRange(0), default=1.0, show_default=True,
              help="Money that one replica costs per hour.")  # fmt: skip
@click.option("--lose-at", panel=_FLEET, type=click.FloatRange(0), help="Second at which one replica is lost.")
@click.option("--restart-after", panel=_FLEET, type=click.FloatRange(0), default=30.0, show_default=True,
              help="Seconds until it is back, its cache empty.")  # fmt: skip
@click.option("--cores-per-host", panel=_HOST, type=click.IntRange(1),
              help="Cores that replicas share with what carries requests; else they share nothing.")  # fmt: skip
@click.option("--replicas-per-host", panel=_HOST, type=click.IntRange(1), default=1, show_default=True,
              help="Replicas on one host; each uses the threads that FILE was measured with.")  # fmt: skip
@click.option("--cpu-ms-per-request", panel=_HOST, type=click.FloatRange(0), default=0.0, show_default=True,
              help="CPU time that brings a request to its replica, of all processes.")  # fmt: skip
@click.option("--cpu-ms-per-token", panel=_HOST, type=click.FloatRange(0), default=0.0, show_default=True,
              help="CPU time that brings a token to its client, of all processes.")  # fmt: skip
@click.option("--cpu-idle-share", panel=_HOST, type=click.FloatRange(0), default=0.0, show_default=True,
              help="Cores that all this takes of a host while nobody asks.")  # fmt: skip
@click.option("--front-ms-per-request", panel=_HOST, type=click.FloatRange(0), default=0.0, show_default=True,
              help="CPU time of each request at the one front, on a core of its own.")  # fmt: skip
@click.option("--front-ms-per-token", panel=_HOST, type=click.FloatRange(0), default=0.0, show_default=True,
              help="CPU time of each token at the one front.")  # fmt: skip
@click.option("--users", panel=_TALK, type=click.IntRange(1), default=8, show_default=True,
              help="People per replica, each in one conversation at a time.")  # fmt: skip
@click.option("--turns", panel=_TALK, type=click.FloatRange(1), default=5.75, show_default=True, help="Mean turns.")
@click.option("--question-tokens", panel=_TALK, type=click.FloatRange(1), default=161.0, show_default=True,
              help="Mean tokens of a question.")  # fmt: skip
@click.option("--answer-tokens", panel=_TALK, type=click.FloatRange(1), default=338.0, show_default=True,
              help="Mean tokens of an answer.")  # fmt: skip
@click.option("--think-s", panel=_TALK, type=click.FloatRange(0), default=20.0, show_default=True,
              help="Mean seconds between an answer and the next question.")  # fmt: skip
@click.option("--opening-tokens", panel=_TALK, type=click.IntRange(0), default=64, show_default=True,
              help="Tokens of the system message that all conversations share.")  # fmt: skip
@click.option("--seconds", panel=_TALK, type=click.FloatRange(1), default=300.0, show_default=True,
              help="Simulated time.")  # fmt: skip
@click.option("--warmup-share", panel=_TALK, type=click.FloatRange(0, 0.9), default=0.25, show_default=True,
              help="Share of it that is not counted.")  # fmt: skip
@click.option("--seed", panel=_TALK, type=click.IntRange(0), default=0, show_default=True, help="Seed of the lengths.")
@click.option("--against", panel=_RESULT, type=click.Path(path_type=Path),
              help="Play a load that 'bench http' measured, and compare; exit code 3 beyond 15 %.")  # fmt: skip
@click.option("--markdown", "output_format", panel=_RESULT, flag_value="markdown", help="Print Markdown.")
@click.option("--json", "output_format", panel=_RESULT, flag_value="json", help="Print JSON.")
def simulate_command(files: tuple[Path, ...], **values: Any) -> None:  # noqa: ANN401 - typed by SimulateFlags at once
    """Simulate many replicas from the step times in FILE, a result of 'bench engine'; without one, built-in times.

    Of several FILEs the mean counts: where a machine's speed drifts, measure before and after. Nothing is run: it says
    what a fleet would do under the engine's scheduling rules. docs/scaling.md has the rules, what is left out, and the
    arithmetic for planning.
    """
    from bench.commands.simulate_run import SimulateFlags, run_simulate

    run_simulate(files, SimulateFlags(**values))
