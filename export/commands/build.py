"""``powertrain build``: its flags; rehearses or runs a pipeline, and ends with the status that CI reads."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click
from runtime.commands.help_text import examples
from runtime.commands.surroundings import surroundings
from runtime.errors import PowertrainError

if TYPE_CHECKING:
    from rich.console import Console

    from export.pipeline.judge import Judge
    from export.pipeline.runner import Outcome
    from export.pipeline.setup import Setup

_STEPS, _RESULT = "Steps", "Result"

BUILT, WRONG, NOTHING_TO_DO, POOR, FAILED = 0, 2, 3, 4, 5
"""Exit statuses. ``NOTHING_TO_DO`` is 0 as well unless it is asked for."""


@click.command(
    epilog=examples(
        "powertrain build pipeline.toml",
        "powertrain build pipeline.toml --dry-run",
        "powertrain build pipeline.toml --jobs 2 --memory-mib 6000 --detailed-exit-code",
        "powertrain build pipeline.toml --report build.json --report junit.xml --report build.md --baseline main.json",
    )
)
@click.argument("pipeline", type=click.Path(path_type=Path))
@click.option(
    "--dry-run", panel=_STEPS, is_flag=True, help="Say what is fresh, what would be built, why and what it takes."
)
@click.option(
    "--jobs", panel=_STEPS, type=click.IntRange(1), show_default="the file's, else the CPUs", help="Steps at a time."
)
@click.option("--memory-mib", panel=_STEPS, type=click.IntRange(1),
              show_default="the file's, else 80 % of what is available",
              help="Memory of all steps together.")  # fmt: skip
@click.option("--cache", panel=_STEPS, type=click.Path(path_type=Path),
              show_default="the file's, else .steps among the packages",
              help="Folder of the steps' results.")  # fmt: skip
@click.option("--fail-fast", panel=_STEPS, is_flag=True, help="Start nothing more after a step failed.")
@click.option("--refetch", panel=_STEPS, is_flag=True, help="Ask the hub again what a branch or tag names now.")
@click.option("--detailed-exit-code", panel=_RESULT, is_flag=True, help="End with 3, not 0, when nothing was to do.")
@click.option("--report", "reports", panel=_RESULT, type=click.Path(path_type=Path), multiple=True,
              help="Write a report: .json, .xml (JUnit) or .md; once for each.")  # fmt: skip
@click.option("--baseline", panel=_RESULT, type=click.Path(path_type=Path),
              help="JSON of an earlier build, to compare with.")  # fmt: skip
@click.pass_context
def build_command(
    context: click.Context,
    pipeline: Path,
    *,
    dry_run: bool,
    jobs: int | None,
    memory_mib: int | None,
    cache: Path | None,
    fail_fast: bool,
    refetch: bool,
    detailed_exit_code: bool,
    reports: tuple[Path, ...],
    baseline: Path | None,
) -> None:
    """Build every package that the file PIPELINE asks for, and nothing that is there.

    Ends with 0 when all is there, 2 when the file is wrong, 4 when a package is worse than it may be and 5 when a step
    failed. docs/pipeline.md describes the file.
    """
    from rich.console import Console

    from export.pipeline.setup import prepare

    console = Console(stderr=True)
    try:
        check_reports(reports, dry_run=dry_run)
        home = surroundings(context).home()
        setup = prepare(pipeline, home, cache=cache, jobs=jobs, memory_mib=memory_mib, baseline=baseline)
    except PowertrainError as error:
        click.echo(f"Error: {error}", err=True)
        context.exit(WRONG)
    judge = setup.judge(refetch=refetch and dry_run)
    try:
        if refetch and not dry_run:
            setup.forget_fetched()
        if dry_run:
            status = _rehearse(setup, judge)
        else:
            begin = time.monotonic()
            outcomes = _build(setup, judge, console, fail_fast=fail_fast)
            status = exit_status(outcomes)
            _report(reports, setup, outcomes, pipeline=pipeline.name, seconds=time.monotonic() - begin)
    except PowertrainError as error:
        click.echo(f"Error: {error}", err=True)
        context.exit(FAILED)
    context.exit(BUILT if status == NOTHING_TO_DO and not detailed_exit_code else status)


def _rehearse(setup: Setup, judge: Judge) -> int:
    from rich.console import Console

    from export.pipeline.judge import rehearse
    from export.pipeline.report import rehearsal_lines, rehearsal_table

    prospects = rehearse(setup.steps, judge.verdict)
    work = [one for one in prospects if not (one.verdict.is_fresh or one.verdict.is_refused)]
    costs = {one.step.name: setup.cost_of(one.step, one.done) for one in work}
    console = Console()
    console.print(rehearsal_table(prospects, costs))
    for line in rehearsal_lines(prospects, costs, setup.budget, setup.free_bytes()):
        console.print(line, highlight=False, soft_wrap=True)
    if any(one.verdict.is_refused for one in prospects):
        return POOR
    return BUILT if costs else NOTHING_TO_DO


def _build(setup: Setup, judge: Judge, console: Console, *, fail_fast: bool) -> list[Outcome]:
    from export.pipeline.child import Child
    from export.pipeline.display import shown_build
    from export.pipeline.report import summary_lines
    from export.pipeline.runner import Runner

    with shown_build(console) as display:
        outcomes = Runner(
            setup.steps,
            setup.cache,
            setup.budget,
            judge=judge,
            cost_of=setup.cost_of,
            launch=Child,
            display=display,
            logs=setup.logs,
            fail_fast=fail_fast,
        ).run()
    for line in summary_lines(outcomes):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return outcomes


def check_reports(paths: Sequence[Path], *, dry_run: bool) -> None:
    """Raise PipelineError for reports that could not be written after a build."""
    from export.errors import PipelineError
    from export.pipeline.report_files import check_report_path

    if paths and dry_run:
        raise PipelineError("--report tells of a build, and --dry-run builds nothing; leave one of them out")
    for path in paths:
        check_report_path(path)


def _report(paths: Sequence[Path], setup: Setup, outcomes: list[Outcome], *, pipeline: str, seconds: float) -> None:
    from export.pipeline.account import build_report
    from export.pipeline.report_files import write_report

    if not paths:
        return  # what a build with nothing to do need not import
    report = build_report(outcomes, pipeline=pipeline, status=exit_status(outcomes), seconds=seconds)
    for path in paths:
        write_report(path, report, setup.baseline)


def exit_status(outcomes: list[Outcome]) -> int:
    """What CI is told: a failure before a package that is worse than allowed."""
    from export.pipeline.runner import State

    found = {one.state for one in outcomes}
    if State.FAILED in found:
        return FAILED
    if State.POOR in found:
        return POOR
    return BUILT if State.BUILT in found else NOTHING_TO_DO
