"""`powertrain bench prove`: the benchmark measured by its own yardstick; its words and flags."""

from __future__ import annotations

import rich_click as click
from runtime.commands.help_text import examples


@click.command("prove", epilog=examples("powertrain bench prove", "powertrain bench prove --client"))
@click.option("--client", is_flag=True, help="Also measure the client here: 64 streams, 5,000 tok/s, real time.")
def prove_command(*, client: bool) -> None:
    """Reproduce NVIDIA's published NIM tables in simulated time; with --client, measure the measuring client."""
    from bench.commands.prove_run import run_prove

    run_prove(client=client)
