"""A build's report as JUnit's XML: a case per step, and one per gate. Knows no step and no gate."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from export.pipeline.build_report import BuildReport, PackageReport, StepReport
from export.pipeline.gates import Finding

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML has no way to write."""


def report_junit(report: BuildReport) -> bytes:
    """Two suites, steps and gates. A step that failed is an error; what is worse than allowed is a failure."""
    root = ET.Element("testsuites", name="powertrain build", time=f"{report.seconds:.3f}")
    steps = [_step(step) for step in report.steps]
    gates = [_gate(package, finding) for package in report.packages for finding in package.gates]
    cases = [("steps", steps), *([("gates", gates)] if gates else [])]
    for name, found in cases:
        suite = ET.SubElement(root, "testsuite", {"name": _text(f"{report.pipeline} {name}"), **_counts(found)})
        suite.extend(found)
    for name, count in _counts(steps + gates).items():
        if name != "time":
            root.set(name, count)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(root, encoding="unicode")}\n'.encode()


def _counts(cases: list[ET.Element]) -> dict[str, str]:
    counts = {name: sum(case.find(tag) is not None for case in cases)
              for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped"))}  # fmt: skip
    seconds = sum(float(case.get("time", "0")) for case in cases)
    return {"tests": str(len(cases)), **{name: str(count) for name, count in counts.items()}, "time": f"{seconds:.3f}"}


def _step(step: StepReport) -> ET.Element:
    case = _case(f"step.{step.kind}", step.label, step.seconds)
    match step.state:
        case "failed":
            _ending(case, "error", "step", step.text, f"log: {step.log}" if step.log else "")
        case "worse than allowed":
            _ending(case, "failure", "quality", step.text, "")
        case "not done":
            _ending(case, "skipped", "", step.text, "")
    return case


def _gate(package: PackageReport, finding: Finding) -> ET.Element:
    """One that is not measured and may pass counts as skipped, so it is seen."""
    case = _case(f"gate.{package.name}", finding.gate + (f" {finding.target}" if finding.target else ""), 0.0)
    if not finding.passes:
        _ending(case, "failure", finding.outcome, finding.text, "")
    elif finding.outcome == "not measured":
        _ending(case, "skipped", "", finding.text, "")
    return case


def _case(classname: str, name: str, seconds: float) -> ET.Element:
    return ET.Element("testcase", classname=_text(classname), name=_text(name), time=f"{seconds:.3f}")


def _ending(case: ET.Element, tag: str, kind: str, message: str, body: str) -> None:
    end = ET.SubElement(case, tag, {"message": _text(message), **({"type": kind} if kind else {})})
    end.text = _text(body) or None


def _text(words: str) -> str:
    return _NO_XML.sub("\ufffd", words)
