"""The scripts of others that the wheel holds, as components of an SBOM: no tool for Python's packages finds them.

Each folder of them has a VENDORED.toml with name, version, licence and the npm package that they were taken from.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def vendored(root: Path) -> Iterator[dict[str, Any]]:
    """A CycloneDX component for each script below ``root``, by name. Raises KeyError where a table says too little."""
    found: list[dict[str, Any]] = []
    for path in root.rglob("VENDORED.toml"):
        table = tomllib.loads(path.read_text("utf-8"))
        for name, about in ({table["name"]: table} if "name" in table else table).items():
            found.append(_component(name, about["version"], about["license"]))
    yield from sorted(found, key=lambda part: str(part["name"]))


def _component(name: str, version: str, licence: str) -> dict[str, Any]:
    purl = f"pkg:npm/{name.replace('@', '%40')}@{version}"
    said = {"expression": licence} if " " in licence else {"license": {"id": licence}}
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl, "licenses": [said]}


def add_vendored(sbom: Path, root: Path) -> None:
    """Write the scripts below ``root`` into the SBOM, as what its root component needs."""
    document = json.loads(sbom.read_text("utf-8"))
    parts = list(vendored(root))
    refs = [part["bom-ref"] for part in parts]
    document["components"] += parts
    about = document["metadata"]["component"]["bom-ref"]
    (needs,) = [entry for entry in document["dependencies"] if entry["ref"] == about]
    needs["dependsOn"] = [*needs.get("dependsOn", ()), *refs]
    document["dependencies"] += [{"ref": ref} for ref in refs]
    sbom.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")
