"""Pinned packages against known advisories: the committed list, and what pip-audit found when it could ask the index.

``python requirements/audit.py [PIP_AUDIT_REPORT.json ...]`` prints what it found and exits with 1 when a pin is
affected by an advisory that is not accepted with a reason. ``advisories.json`` has OSV's form; requirements with a
range count by their lower bound.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

FOLDER = Path(__file__).resolve().parent
ADVISORIES = FOLDER / "advisories.json"


@dataclass(frozen=True, slots=True)
class Pin:
    """A package at a version, and the file that says so."""

    file: str
    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Advisory:
    """Versions of a package from ``introduced`` on, below ``fixed`` or up to ``last_affected``, have a known fault."""

    id: str
    package: str
    introduced: str
    fixed: str | None
    last_affected: str | None

    def affects(self, pin: Pin) -> bool:
        """True when the pin has the fault."""
        version = Version(pin.version)
        if canonicalize_name(self.package) != pin.name or version < Version(self.introduced):
            return False
        if self.fixed is not None:
            return version < Version(self.fixed)
        return self.last_affected is None or version <= Version(self.last_affected)

    @property
    def remedy(self) -> str:
        """Where it is mended."""
        return self.fixed or (f"above {self.last_affected}" if self.last_affected else "no version yet")


def pins_of(lines: Iterable[str], file: str) -> list[Pin]:
    """The requirements in lines of a requirements file; hashes, comments and continuations are passed over."""
    found = []
    for line in lines:
        text = re.split(r"\s#|\s\\$|\s--hash", line.strip())[0].strip()
        if not text or text.startswith(("#", "-")):
            continue
        requirement = Requirement(text)
        bounds = [part.version for part in requirement.specifier if part.operator in {"==", ">=", "~="}]
        found += [Pin(file, canonicalize_name(requirement.name), bound) for bound in bounds]
    return found


def all_pins(folder: Path = FOLDER) -> list[Pin]:
    """Every requirement of the project: the pinned files, and the lower bounds of its dependencies and extras."""
    found = []
    for path in sorted(folder.glob("*.txt")):
        found += pins_of(path.read_text(encoding="utf-8").splitlines(), path.name)
    project = tomllib.loads((folder.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for lines in (project["dependencies"], *project["optional-dependencies"].values()):
        found += pins_of(lines, "pyproject.toml")
    return found


def read_advisories(path: Path = ADVISORIES) -> tuple[list[Advisory], set[tuple[str, str]]]:
    """The advisories of an OSV file, and the (id, package) pairs that are accepted there, each with a reason."""
    document = json.loads(path.read_text(encoding="utf-8"))
    accepted = {(one["id"], one["package"]) for one in document["accepted"] if one["reason"].strip()}
    return [advisory for vuln in document["vulns"] for advisory in _advisories(vuln)], accepted


def _advisories(vuln: dict[str, Any]) -> Iterable[Advisory]:
    for affected in vuln["affected"]:
        for bounds in affected["ranges"]:
            events: dict[str, str] = {key: value for event in bounds["events"] for key, value in event.items()}
            yield Advisory(
                vuln["id"],
                affected["package"]["name"],
                events["introduced"],
                events.get("fixed"),
                events.get("last_affected"),
            )


def problems_of(
    pins: Sequence[Pin], advisories: Sequence[Advisory], accepted: Collection[tuple[str, str]] = ()
) -> list[str]:
    """One line for each pin that an advisory affects."""
    return sorted(
        {
            f"{pin.file}: {pin.name} {pin.version} is affected by {advisory.id}; fixed in {advisory.remedy}"
            for pin in pins
            for advisory in advisories
            if advisory.affects(pin) and (advisory.id, advisory.package) not in accepted
        }
    )


def problems_of_report(report: dict[str, Any], accepted: Collection[tuple[str, str]]) -> tuple[list[str], int]:
    """What a pip-audit report (``-f json``) found, and how many packages the index knew."""
    known = [one for one in report["dependencies"] if "skip_reason" not in one]
    problems = []
    for one in known:
        for vuln in one["vulns"]:
            ids = {vuln["id"], *vuln.get("aliases", ())}
            if not any((name, one["name"]) in accepted for name in ids):
                fixed = ", ".join(vuln["fix_versions"]) or "no version yet"
                problems.append(f"{one['name']} {one['version']} is affected by {vuln['id']}; fixed in {fixed}")
    return problems, len(known)


def main(reports: Sequence[str]) -> int:
    """Check all pins. Returns the exit status."""
    advisories, accepted = read_advisories()
    pins = all_pins()
    problems = problems_of(pins, advisories, accepted)
    date = json.loads(ADVISORIES.read_text(encoding="utf-8"))["date"]
    print(f"{len(pins)} requirements against {len(advisories)} advisories of {date}")
    for report in reports:
        found, num_known = problems_of_report(json.loads(Path(report).read_text(encoding="utf-8")), accepted)
        problems += found
        print(f"{Path(report).name}: the index has advisories on {num_known} packages")
    print("\n".join(problems) or "no known vulnerability")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
