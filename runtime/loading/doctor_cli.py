"""``powertrain doctor``: prints what ``runtime.loading.doctor`` found, one line each, and the line that fixes it."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

_MARKS = {"ok": "[green]ok[/]     ", "missing": "[yellow]missing[/]", "problem": "[red]problem[/]"}


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path("models"))
def doctor_command(folder: Path) -> None:
    """Say what this machine can run, what is missing, and the line that fixes it.

    FOLDER is a package or holds packages [default: models].
    """
    from rich.console import Console
    from rich.markup import escape

    from runtime.loading.doctor import examine, find_packages

    console = Console(soft_wrap=True, highlight=False)
    packages = find_packages(folder)
    for finding in examine(packages):
        console.print(f"{_MARKS[finding.state]} {escape(f'{finding.topic}: {finding.text}')}")
        if finding.fix:
            console.print(f"        {escape('-> ' + finding.fix)}")
    if not packages:
        console.print(f"{_MARKS['missing']} {escape(f'{folder}: no package')}")
        console.print("        -> make model")
