"""What `powertrain bench report` does: saved results to one page or table, also several of them side by side."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import rich_click as click
from runtime.errors import PowertrainError

from bench.commands.written import say_written
from bench.errors import BenchError
from bench.report.exports import report_markdown, write_whole
from bench.report.html_report import report_html
from bench.report.plots import write_plots
from bench.report.results import Report, load_report

PAGE_FILE = "report.html"


def run_report(files: tuple[Path, ...], output: Path | None, title: str | None, *, markdown: bool, plots: bool) -> None:
    """Write the page, and plots if wanted, into ``output``, else beside the first file; or print Markdown."""
    folder = output or files[0].parent
    try:
        report = merged([(_name(path), load_report(path)) for path in files], title)
        if markdown:
            sys.stdout.write(report_markdown(report, definitions=False))
        if not markdown or output is not None:
            write_whole(folder / PAGE_FILE, report_html(report).encode())
            say_written(folder / PAGE_FILE)
        if plots:
            say_written(*write_plots(report, folder))
    except OSError as error:
        raise click.ClickException(f"cannot write: {error.strerror}") from error
    except PowertrainError as error:
        raise click.ClickException(str(error)) from error


def merged(named: list[tuple[str, Report]], title: str | None) -> Report:
    """One report of all points. Targets are renamed to the reports' names when there are several. BenchError."""
    if len(named) == 1:
        report = named[0][1]
        return report if title is None else msgspec.structs.replace(report, title=title)
    if len({name for name, _ in named}) < len(named):
        raise BenchError("two results have the same name; put them into folders or files of different names")
    versions = {report.formula_version for _, report in named}
    if len(versions) > 1:
        raise BenchError(f"the results were made with different formulas (versions {sorted(versions)}); measure again")
    points = []
    for name, report in named:
        several = len({point.target for point in report.points}) > 1
        points += [
            msgspec.structs.replace(point, target=f"{name} {point.target}" if several else name)
            for point in report.points
        ]
    first = named[0][1]
    return msgspec.structs.replace(
        first, points=points, title=title or f"{' against '.join(name for name, _ in named)}"
    )


def _name(path: Path) -> str:
    return path.parent.name if path.stem == "report" and path.parent.name else path.stem
