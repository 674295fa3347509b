"""`powertrain bench`: the words of the benchmark room. Imports each word's module when it is called."""

from __future__ import annotations

import rich_click as click
from runtime.commands.lazy_group import LazyGroup

_COMMANDS = {
    "http": ("bench.commands.http", "http_command"),
    "compare": ("bench.commands.http", "compare_command"),
    "engine": ("bench.commands.engine", "engine_command"),
    "simulate": ("bench.commands.simulate", "simulate_command"),
    "suite": ("bench.commands.suite", "suite_command"),
    "peers": ("bench.commands.peers", "peers_command"),
    "report": ("bench.commands.report", "report_command"),
    "prove": ("bench.commands.prove", "prove_command"),
    "mock": ("bench.commands.mock", "mock_command"),
}


@click.group("bench", cls=LazyGroup, table=_COMMANDS)
def bench_group() -> None:
    """Measure an endpoint or the runtime, with the formulas and the reasons to trust the figures beside them."""
