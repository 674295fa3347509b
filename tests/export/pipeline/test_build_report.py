"""A build's report: what is in its JSON, its JUnit and its Markdown, and what is no report."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import msgspec
import pytest

from export.errors import PipelineError, StepError
from export.pipeline.build_report import BuildReport, PackageReport, PlanReport, StepReport, read_report, report_json
from export.pipeline.gates import Finding
from export.pipeline.junit import report_junit
from export.pipeline.markdown import report_markdown
from export.pipeline.report_files import check_report_path, write_report


def finding(gate: str, outcome: Any, *, passes: bool, target: str | None = None) -> Finding:
    return Finding(gate=gate, target=target, wanted="1 | 2", limit=1.0, measured=2.0, outcome=outcome, passes=passes,
                   text=f"{gate} said")  # fmt: skip


def step(kind: str, label: str, state: Any, text: str = "", seconds: float = 0.0, log: str | None = None) -> StepReport:
    return StepReport(kind=kind, label=label, state=state, text=text, seconds=seconds, log=log)


REPORT = BuildReport(
    powertrain="0.1.0",
    pipeline="p.toml",
    result="failed",
    status=5,
    seconds=12.5,
    steps=[
        step("fetch", "m", "fresh"),
        step("package", "m-int8", "built", "not built yet", 2.5, "logs/x.log"),
        step("plan", "m-int8 sm89", "failed", "no \x1b[31mroom\x00 <left>", 1.0, "logs/y.log"),
        step("place", "m-int8", "not done", "needs plan m-int8 sm89"),
        step("place", "m-int4", "worse than allowed", "max_kl | said"),
    ],
    packages=[
        PackageReport(
            name="m-int4",
            is_placed=False,
            measures={"size": 2.0**20, "kl": 0.5, "perplexity": 20.0, "accuracy": 0.5, "tokens_per_s": 42.0},
            build_seconds=61.0,
            plans=[],
            gates=[finding("max_kl", "broken", passes=False), finding("min_accuracy", "not measured", passes=True)],
        ),
        PackageReport(
            name="m-int8",
            is_placed=True,
            measures={"size": 3 * 2.0**20, "kl": 0.01, "perplexity": 18.0},
            build_seconds=2.5,
            plans=[PlanReport(target="sm89", measures={"size": 2.5 * 2**20}, build_seconds=30.0)],
            gates=[finding("max_size", "held", passes=True, target="sm89")],
        ),
    ],
)


def test_the_json_is_the_baseline_of_the_next_build(tmp_path: Path) -> None:
    write_report(tmp_path / "new/r.json", REPORT, None)
    assert read_report(tmp_path / "new/r.json") == REPORT
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["r.json"]
    assert REPORT.measures()["m-int8", "sm89"] == {"size": 2_621_440.0}
    assert REPORT.measures()["m-int4", None]["accuracy"] == 0.5


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "cannot be read .*or no --baseline in a first build"),
        (b"{}", "is no report of a build .*'powertrain build --report FILE.json'"),
        (b"\xff", "is no report"),
        (report_json(msgspec.structs.replace(REPORT, schema_version=9)), "has schema powertrain-build 9"),
    ],
)
def test_what_is_no_baseline_is_refused(data: bytes | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(PipelineError, match=words):
        read_report(path)


def test_junit_has_a_case_for_each_step_and_each_gate() -> None:
    root = ET.fromstring(report_junit(REPORT))  # noqa: S314 - our own
    counts = {"tests": "8", "failures": "2", "errors": "1", "skipped": "2", "time": "12.500"}
    assert {name: root.get(name) for name in counts} == counts
    steps, gates = root.findall("testsuite")
    assert [steps.get(name) for name in ("name", "tests", "failures", "errors", "skipped", "time")] == [
        "p.toml steps", "5", "1", "1", "1", "3.500"]  # fmt: skip
    cases = {(case.get("classname"), case.get("name")): case for case in root.iter("testcase")}
    error = cases["step.plan", "m-int8 sm89"].find("error")
    assert error is not None
    assert (error.get("message"), error.text) == ("no \ufffd[31mroom\ufffd <left>", "log: logs/y.log")
    ends = {key: [end.tag for end in case] for key, case in cases.items()}
    assert ends == {
        ("step.fetch", "m"): [],
        ("step.package", "m-int8"): [],
        ("step.plan", "m-int8 sm89"): ["error"],
        ("step.place", "m-int8"): ["skipped"],
        ("step.place", "m-int4"): ["failure"],
        ("gate.m-int4", "max_kl"): ["failure"],
        ("gate.m-int4", "min_accuracy"): ["skipped"],
        ("gate.m-int8", "max_size sm89"): [],
    }
    assert len(gates) == 3


def test_markdown_has_the_figures_and_their_change() -> None:
    packages = [
        PackageReport(name="m-int8", is_placed=True, build_seconds=2.0, gates=[],
                      measures={"size": 2 * 2.0**20, "kl": 0.02, "perplexity": 18.0},
                      plans=[PlanReport(target="sm89", measures={"size": 2.0**21}, build_seconds=1.0)]),
        PackageReport(name="gone", is_placed=True, build_seconds=2.0, gates=[], measures={}, plans=[]),
    ]  # fmt: skip
    text = report_markdown(REPORT, msgspec.structs.replace(REPORT, packages=packages))
    assert text.splitlines()[:6] == [
        "### ❌ `powertrain build p.toml`: failed",
        "",
        "| package | size | KL | perplexity | accuracy | tok/s | time | plan sm89 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| m-int4 (new) (not in place) | 1.00 MiB | 0.5 | 20 | 0.5 | 42 | 1 min 01 s |  |",
        "| m-int8 | 3.00 MiB (+50.00 %) | 0.01 (-0.01) | 18 (=) | – | – | 2 s | 2.50 MiB (+25.00 %) |",
    ]
    assert "| m-int8 | sm89 | 2.50 MiB (+25.00 %) | – | – | 30 s |" in text
    assert "| m-int4 | `max_kl` | 1 \\| 2 | ❌ broken | max\\_kl said |" in text
    assert "| m-int4 | `min_accuracy` | 1 \\| 2 | ⚠️ not measured, passes | min\\_accuracy said |" in text
    assert "| m-int8 | `max_size` sm89 | 1 \\| 2 | ✅ held | max\\_size said |" in text
    assert "- **place m-int4**: worse than allowed: max\\_kl \\| said" in text
    assert text.endswith("In the baseline, and no more: gone\n")
    alone = report_markdown(msgspec.structs.replace(REPORT, status=0, result="built"))
    assert "(new)" not in alone
    assert alone.startswith("### ✅ `powertrain build p.toml`: built")


def test_a_reports_form_is_its_names_ending(tmp_path: Path) -> None:
    for name in ("r.txt", "r", ".json"):
        with pytest.raises(PipelineError, match=r"its ending says no form; give .json, .xml"):
            check_report_path(tmp_path / name)
    (tmp_path / "folder.md").mkdir()
    with pytest.raises(PipelineError, match="is a folder"):
        check_report_path(tmp_path / "folder.md")
    for name in ("r.json", "r.XML", "r.md"):
        check_report_path(tmp_path / name)
        write_report(tmp_path / name, REPORT, None)
    assert (tmp_path / "r.XML").read_bytes() == report_junit(REPORT)
    assert (tmp_path / "r.md").read_text() == report_markdown(REPORT)
    (tmp_path / "file").write_text("")
    with pytest.raises(StepError, match=r"--report .*file/r.md cannot be written"):
        write_report(tmp_path / "file/r.md", REPORT, None)
