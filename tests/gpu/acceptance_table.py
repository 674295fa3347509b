"""What the acceptance found on each backend, as one table, and whether it was passed.

Reads the reports that ``tests/gpu/conftest.py`` writes. Uses Python's own modules alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HEAD = ("backend", "GPU", "checks", "passed", "failed", "skipped", "tokens/s")


@dataclass(frozen=True)
class Check:
    """One check: ``outcome`` is ``passed``, ``skipped`` or anything else, which counts as failed."""

    name: str
    outcome: str
    detail: str = ""


@dataclass(frozen=True)
class Row:
    """A backend's result. ``problem`` is a failure of the run itself, ``left_out`` why there was none."""

    backend: str
    gpu: str = ""
    checks: tuple[Check, ...] = ()
    tokens_per_s: float | None = None
    problem: str = ""
    left_out: str = ""

    @property
    def num_run(self) -> int:
        """Checks that were executed, on a GPU that the run saw."""
        return sum(check.outcome != "skipped" for check in self.checks) if self.gpu else 0

    @property
    def num_failed(self) -> int:
        """Executed checks that did not pass."""
        return sum(check.outcome not in {"passed", "skipped"} for check in self.checks)


def read_report(backend: str, path: Path, exit_status: int) -> Row:
    """The row of a run that ended with ``exit_status``; what is not in its report is a problem, not a pass."""
    try:
        said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        checks = tuple(Check(one["name"], one["outcome"], str(one["detail"])) for one in said["checks"])
        row = Row(backend, said["gpu"] or "", checks, said["tokens_per_s"])
    except (OSError, ValueError, KeyError, TypeError):
        return Row(backend, problem=f"it ended with status {exit_status} and left no report")
    if row.num_run == 0:
        where = "" if row.gpu else ": it saw no GPU"
        return Row(backend, row.gpu, checks, problem=f"no check ran{where}")
    if exit_status != 0 and row.num_failed == 0:
        return Row(backend, row.gpu, checks, row.tokens_per_s, f"it ended with status {exit_status} after its checks")
    return row


def table(rows: list[Row]) -> str:
    """The rows, what failed and was left out in a line each, and the sum."""
    cells = [_HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEAD))]
    lines = []
    for line in cells:
        words = [cell.ljust(width) for cell, width in zip(line[:2], widths, strict=False)]
        words += [cell.rjust(width) for cell, width in zip(line[2:], widths[2:], strict=True)]
        lines.append("  ".join(words).rstrip())
    return "\n".join([*lines, "", *_remarks(rows), _sum(rows)])


def is_passed(rows: list[Row]) -> bool:
    """Something was executed on a GPU, nothing failed, and every backend that was to run did."""
    return any(row.num_run for row in rows) and not any(row.num_failed or row.problem for row in rows)


def _cells(row: Row) -> tuple[str, ...]:
    num_skipped = sum(check.outcome == "skipped" for check in row.checks)
    passed = row.num_run - row.num_failed if row.num_run else 0
    speed = "-" if row.tokens_per_s is None else f"{row.tokens_per_s:.1f}"
    return (row.backend, row.gpu or "-", *map(str, (row.num_run, passed, row.num_failed, num_skipped)), speed)


def _remarks(rows: list[Row]) -> list[str]:
    lines = []
    for row in rows:
        if row.problem:
            lines.append(f"{row.backend} FAILED: {row.problem}")
        if row.left_out:
            lines.append(f"{row.backend} was left out: {row.left_out}")
        for check in row.checks:
            if check.outcome != "passed":
                word = "skipped" if check.outcome == "skipped" else "FAILED"
                lines.append(f"{row.backend} {check.name} {word}: {check.detail or 'no reason given'}")
    return lines


def _sum(rows: list[Row]) -> str:
    num_run, num_failed = sum(row.num_run for row in rows), sum(row.num_failed for row in rows)
    if not num_run:
        return "NOT accepted: no check ran on a GPU"
    verdict = "accepted" if is_passed(rows) else "NOT accepted"
    return f"{verdict}: {num_run} checks ran on a GPU, {num_run - num_failed} passed, {num_failed} failed"
