"""``powertrain doctor``: prints what ``runtime.loading.doctor`` found, one line each, and the line that fixes it."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from runtime.commands.help_text import examples
from runtime.commands.model_argument import MODEL
from runtime.commands.surroundings import surroundings

_MARKS = {"ok": "[green]ok[/]     ", "missing": "[yellow]missing[/]", "problem": "[red]problem[/]"}


@click.command(epilog=examples("powertrain doctor", "powertrain doctor smollm2-135m-instruct"))
@click.argument("model", type=MODEL, required=False)
@click.pass_context
def doctor_command(context: click.Context, /, model: Path | None) -> None:
    """Say what this machine can run, what is missing, and the line that fixes it.

    Without MODEL, every package is looked at. The exit status is 1 where something is a problem, not merely missing.
    """
    from rich.console import Console
    from rich.markup import escape

    from runtime.loading.doctor import examine
    from runtime.package.home import packages_below

    console = Console(soft_wrap=True, highlight=False)
    home = surroundings(context).home()
    packages = [model] if model else packages_below(home)
    findings = examine(packages)
    for finding in findings:
        console.print(f"{_MARKS[finding.state]} {escape(f'{finding.topic}: {finding.text}')}")
        if finding.fix:
            console.print(f"        {escape('-> ' + finding.fix)}")
    if not packages:
        console.print(f"{_MARKS['missing']} {escape(f'{home}: no package')}")
        console.print("        -> powertrain export smollm2-135m-instruct")
    if any(finding.state == "problem" for finding in findings):
        context.exit(1)
