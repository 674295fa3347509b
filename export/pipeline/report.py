"""The table of a rehearsal, and the closing lines of a build. Text for people; knows no processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from export.pipeline.amounts import seconds_text, size_text
from export.pipeline.costs import Cost
from export.pipeline.judge import Prospect
from export.pipeline.runner import Outcome, State
from export.pipeline.schedule import Budget, forecast


def rehearsal_table(prospects: Sequence[Prospect], costs: dict[str, Cost]) -> Table:
    """A row per step: what would be done, why, and what that takes. ``?`` is what nobody can know yet."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, justify in (("step", "left"), ("state", "left"), ("time", "right"), ("memory", "right"),
                           ("disk", "right"), ("why", "left")):  # fmt: skip
        table.add_column(title, justify=justify, no_wrap=title != "why")  # type: ignore[arg-type]
    for prospect in prospects:
        name, verdict = prospect.step.name, prospect.verdict
        if verdict.is_fresh:
            table.add_row(escape(name), "[dim]fresh[/]", "", "", "", "")
            continue
        if verdict.is_refused:
            table.add_row(escape(name), "[red]refused[/]", "", "", "", escape(verdict.why))
            continue
        cost = costs[name]
        sizes = (seconds_text(cost.seconds), size_text(cost.memory_bytes), size_text(cost.disk_bytes))
        table.add_row(escape(name), "build", *sizes, escape(verdict.why))
    return table


def rehearsal_lines(
    prospects: Sequence[Prospect], costs: dict[str, Cost], budget: Budget, free_bytes: int
) -> list[str]:
    """What all of it takes together."""
    work = [one for one in prospects if one.step.name in costs]
    refused = sum(one.verdict.is_refused for one in prospects)
    told = [f"worse than allowed: {refused} packages"] if refused else []
    if not work:
        return [f"nothing to do: {len(prospects) - refused} steps are fresh", *told]
    plan = forecast([costs[one.step.name].load(one.step) for one in work], budget)
    unknown = sum(costs[one.step.name].seconds is None for one in work)
    guess = f", {unknown} of them guessed as a minute each" if unknown else ""
    disk = sum(costs[one.step.name].disk_bytes or 0 for one in work)
    room = "" if disk <= free_bytes else f", and {size_text(free_bytes)} are free"
    memory, most = size_text(plan.peak_bytes), size_text(budget.memory_bytes)
    time = f"about {seconds_text(plan.seconds)} with {budget.jobs} jobs{guess}"
    return [
        f"{len(work)} of {len(prospects)} steps to do, {time}",
        f"up to {memory} of the budget of {most} of memory; {size_text(disk)} of disk as far as known{room}",
        *told,
    ]


def summary_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """How many steps came out how, each that did not with its reason and its log, and each gate that nobody held."""
    counts = Counter(one.state for one in outcomes)
    told = ", ".join(f"{counts[state]} {state.value}" for state in State if counts[state])
    lines = [f"{len(outcomes)} steps: {told}" if outcomes else "no steps"]
    for one in outcomes:
        if one.state in {State.POOR, State.FAILED}:
            lines.append(f"  {one.step.name}: {one.text}")
            lines += [f"    log: {one.log}"] if one.log is not None else []
        passed = [finding for finding in one.findings if finding.passes and finding.outcome == "not measured"]
        lines += [f"  {one.step.name}: {finding.text}; the file lets that pass" for finding in passed]
    skipped = [one.step.label for one in outcomes if one.state is State.SKIPPED and one.step.kind == "place"]
    return [*lines, *([f"  not in place: {', '.join(skipped)}"] if skipped else [])]
