"""A build's report as Markdown for a pull request: packages, plans and gates, and what changed since a baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from export.pipeline.amounts import exact_size_text, seconds_text
from export.pipeline.build_report import BuildReport, PackageReport, PlanReport
from export.pipeline.gates import Measures, Subject

_PACKAGE = (("size", "size"), ("kl", "KL"), ("perplexity", "perplexity"), ("accuracy", "accuracy"),
            ("bits_per_byte", "bits/byte"), ("tokens_per_s", "tok/s"))  # fmt: skip
_PLAN = (("size", "size"), ("kl", "KL"), ("tokens_per_s", "tok/s"))
_ALWAYS = {"size", "kl", "perplexity"}
_MARKS = {"held": "✅ held", "broken": "❌ broken", "not measured": "⚠️ not measured"}
_SPECIAL = str.maketrans({char: f"\\{char}" for char in "\\`*_{}[]<>|#~"} | {"\n": " "})

Row = list[str]


def report_markdown(report: BuildReport, baseline: BuildReport | None = None) -> str:
    """One table of packages, with the plan's size per target, and one each of plans, gates and failures, if any."""
    old = {} if baseline is None else baseline.measures()
    mark = "✅" if report.status in {0, 3} else "❌"
    parts = [
        f"### {mark} `powertrain build {_cell(report.pipeline)}`: {report.result}",
        _table(*_packages(report.packages, old, has_baseline=baseline is not None)),
        *_plans(report.packages, old),
        *_gates(report.packages),
        *_failures(report),
        *_gone(report, baseline),
    ]
    return "\n\n".join(parts) + "\n"


def _packages(packages: Sequence[PackageReport], old: Mapping[Subject, Measures], *, has_baseline: bool
              ) -> tuple[Row, list[Row]]:  # fmt: skip
    """``time`` is that of the build that made the package, whenever that was."""
    seen = {name for package in packages for name in package.measures}
    columns = [(name, title) for name, title in _PACKAGE if name in _ALWAYS or name in seen]
    targets = sorted({plan.target for package in packages for plan in package.plans})
    head = ["package", *(title for _, title in columns), "time", *(f"plan {target}" for target in targets)]
    rows = []
    for package in packages:
        before = old.get((package.name, None))
        is_new = has_baseline and before is None
        name = _cell(package.name) + (" (new)" if is_new else "") + ("" if package.is_placed else " (not in place)")
        cells = [_figure(key, package.measures.get(key), (before or {}).get(key)) for key, _ in columns]
        plans = {plan.target: _plan_size(package.name, plan, old) for plan in package.plans}
        rows.append([name, *cells, _seconds(package.build_seconds), *(plans.get(one, "") for one in targets)])
    return head, rows


def _plan_size(package: str, plan: PlanReport, old: Mapping[Subject, Measures]) -> str:
    return _figure("size", plan.measures.get("size"), old.get((package, plan.target), {}).get("size"))


def _plans(packages: Sequence[PackageReport], old: Mapping[Subject, Measures]) -> Iterator[str]:
    rows = []
    for package, plan in [(one, plan) for one in packages for plan in one.plans]:
        before = old.get((package.name, plan.target), {})
        cells = [_figure(key, plan.measures.get(key), before.get(key)) for key, _ in _PLAN]
        rows.append([_cell(package.name), _cell(plan.target), *cells, _seconds(plan.build_seconds)])
    if rows:
        yield _table(["plan of", "target", *(title for _, title in _PLAN), "time"], rows)


def _gates(packages: Sequence[PackageReport]) -> Iterator[str]:
    rows = [
        [_cell(package.name), f"`{one.gate}`" + (f" {_cell(one.target)}" if one.target else ""), _cell(one.wanted),
         _MARKS[one.outcome] + (", passes" if one.outcome == "not measured" and one.passes else ""), _cell(one.text)]
        for package in packages for one in package.gates
    ]  # fmt: skip
    if rows:
        yield _table(["package", "gate", "limit", "outcome", ""], rows)


def _failures(report: BuildReport) -> Iterator[str]:
    lines = [
        f"- **{_cell(step.kind)} {_cell(step.label)}**: {step.state}: {_cell(step.text)}"
        for step in report.steps
        if step.state in {"failed", "worse than allowed"}
    ]
    if lines:
        yield "\n".join(lines)


def _gone(report: BuildReport, baseline: BuildReport | None) -> Iterator[str]:
    names = {package.name for package in report.packages}
    if gone := [one.name for one in baseline.packages if one.name not in names] if baseline else []:
        yield f"In the baseline, and no more: {', '.join(_cell(name) for name in gone)}"


def _figure(name: str, value: float | None, before: float | None) -> str:
    """A figure, and its change: in per cent, or what is added to a share or a divergence, which may be near 0."""
    if value is None:
        return "–" if before is None else "– (was measured)"
    text = exact_size_text(value) if name == "size" else f"{value:.4g}"
    if before is None:
        return text
    if value == before:
        return f"{text} (=)"
    is_relative = name not in {"kl", "accuracy"} and before != 0
    return f"{text} ({100 * (value / before - 1):+.2f} %)" if is_relative else f"{text} ({value - before:+.2g})"


def _seconds(seconds: float | None) -> str:
    return "–" if seconds is None else seconds_text(seconds)


def _cell(text: str) -> str:
    return text.translate(_SPECIAL)


def _table(head: Row, rows: Sequence[Row]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
