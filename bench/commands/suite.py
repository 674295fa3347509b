"""`powertrain bench suite`: the short standard measurement of a package; its words and flags.

It is the one that the tables of docs/numbers.md come from.
"""

from __future__ import annotations

from pathlib import Path

import rich_click as click
from runtime.commands.help_text import examples
from runtime.commands.model_argument import MODEL

DEFAULT_FOLDER = Path("bench/results")


@click.command("suite", epilog=examples("powertrain bench suite smollm2-135m-instruct -o results"))
@click.argument("model", type=MODEL)
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), default=DEFAULT_FOLDER, show_default=True,
    help="Write the results into a new folder in this one.",
)  # fmt: skip
@click.option("--short", is_flag=True, help="A few requests and steps: whether all of it works, not how fast it is.")
@click.option("--markdown", is_flag=True, help="Print the tables in Markdown and nothing else.")
def suite_command(model: Path, output: Path, *, short: bool, markdown: bool) -> None:
    """Measure MODEL in process and through its own HTTP server; takes about three minutes."""
    from bench.commands.suite_run import run_suite

    run_suite(model, output, short=short, markdown=markdown)
