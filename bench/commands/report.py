"""`powertrain bench report`: saved results to one page or table; its words and flags."""

from __future__ import annotations

from pathlib import Path

import rich_click as click
from runtime.commands.help_text import examples


@click.command(
    "report",
    epilog=examples(
        "powertrain bench report results/report.json",
        "powertrain bench report before/report.json after/report.json -o compared --plots",
    ),
)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), show_default="that of the first of FILES",
    help="Write report.html into this folder.",
)  # fmt: skip
@click.option("--markdown", is_flag=True, help="Print Markdown; a page is then written only where --output says.")
@click.option("--plots", is_flag=True, help="Also write PNG and SVG files (needs matplotlib).")
@click.option("--title", help="Title of the page.")
def report_command(
    files: tuple[Path, ...], output: Path | None, title: str | None, *, markdown: bool, plots: bool
) -> None:
    """Render saved report.json FILES, or compare several of them (each is named by its folder or file)."""
    from bench.commands.report_run import run_report

    run_report(files, output, title, markdown=markdown, plots=plots)
