"""A release says one version everywhere, and is no release when two builds of it differ."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from pathlib import Path

import pytest

from requirements.make_dist import DistError, require_equal, run, write_checksums
from requirements.vendored import add_vendored, vendored
from tests.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
HEADINGS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")


def test_the_changelog_begins_with_what_is_not_released_and_then_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    titles = re.findall(r"^## (.+)$", text, re.MULTILINE)
    releases = [title for title in titles if title != "[Unreleased]"]
    assert re.fullmatch(rf"\[{re.escape(PROJECT['version'])}\] - \d{{4}}-\d{{2}}-\d{{2}}", releases[0])
    assert titles.index(releases[0]) <= 1
    kinds = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert set(kinds) <= set(HEADINGS)
    assert {"Added", "Security"} <= set(kinds)


def test_documents_and_examples_have_this_version() -> None:
    pages = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    named = [found for page in pages for found in re.findall(r"powertrain[:-](\d+\.\d+\.\d+)", page.read_text("utf-8"))]
    assert set(named) == {PROJECT["version"]}
    examples = (ROOT / "api/pages/files/examples.json").read_text("utf-8")
    assert set(re.findall(r'"(?:release|version)": "(\d+\.\d+\.\d+)"', examples)) == {PROJECT["version"]}


def test_who_looks_for_a_security_policy_finds_where_to_report() -> None:
    text = (ROOT / "SECURITY.md").read_text("utf-8")
    assert "security advisory" in text
    assert "docs/security.md#reporting-a-vulnerability" in text
    assert "\n## Reporting a vulnerability\n" in (ROOT / "docs" / "security.md").read_text("utf-8")
    assert "@" not in text


def test_builds_that_differ_are_no_release(tmp_path: Path) -> None:
    def made(folder: str, name: str, content: bytes) -> list[Path]:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(content)
        return [tmp_path / folder / name]

    first = made("a", "x.whl", b"\0\1")
    require_equal(first, made("b", "x.whl", b"\0\1"), "two builds")
    with pytest.raises(DistError, match=r"two builds: x\.whl differs"):
        require_equal(first, made("c", "x.whl", b"\0\2"), "two builds")
    with pytest.raises(DistError, match=r"two builds: \['x\.whl'\] and \['y\.whl'\]"):
        require_equal(first, made("d", "y.whl", b"\0\1"), "two builds")


def test_a_command_that_fails_is_named_with_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(DistError, match=r"(?s)sh -c .* ended with 3:\nwhy"):
        run(["sh", "-c", "echo why >&2; exit 3"], tmp_path)


def test_scripts_of_others_are_in_the_sbom_with_licence_and_source(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "one/VENDORED.toml").write_text('name = "zed"\nversion = "9.3.8"\nlicense = "MIT"\n', "utf-8")
    several = '[b]\nversion = "3.5.0"\nlicense = "MPL-2.0 OR Apache-2.0"\n["@a/b"]\nversion = "1"\nlicense = "0BSD"\n'
    (tmp_path / "two/VENDORED.toml").write_text(several, "utf-8")
    sbom = tmp_path / "x.cdx.json"
    before = {
        "metadata": {"component": {"bom-ref": "root"}},
        "components": [{"name": "numpy"}],
        "dependencies": [{"ref": "root", "dependsOn": ["numpy"]}, {"ref": "numpy"}],
    }
    sbom.write_text(json.dumps(before), "utf-8")
    add_vendored(sbom, tmp_path)
    after = json.loads(sbom.read_text("utf-8"))
    assert [part["name"] for part in after["components"]] == ["numpy", "@a/b", "b", "zed"]
    assert after["components"][3]["licenses"] == [{"license": {"id": "MIT"}}]
    assert after["components"][2]["licenses"] == [{"expression": "MPL-2.0 OR Apache-2.0"}]
    refs = ["pkg:npm/%40a/b@1", "pkg:npm/b@3.5.0", "pkg:npm/zed@9.3.8"]
    assert [part["purl"] for part in after["components"][1:]] == refs
    assert after["dependencies"][0] == {"ref": "root", "dependsOn": ["numpy", *refs]}
    assert {entry["ref"] for entry in after["dependencies"]} == {"root", "numpy", *refs}


def test_every_script_that_the_wheel_holds_is_found() -> None:
    tables = list((ROOT / "api").rglob("VENDORED.toml"))
    assert len(list(vendored(ROOT / "api"))) >= len(tables) >= 1


def test_the_licences_of_those_scripts_go_into_the_wheel() -> None:
    named = {path for pattern in PROJECT["license-files"] for path in ROOT.glob(pattern)}
    assert {*(ROOT / "api").rglob("*LICENSE*.txt"), ROOT / "LICENSE"} == named


def test_checksums_are_of_every_file_and_not_of_themselves(tmp_path: Path) -> None:
    for name in ("b.whl", "a.tar.gz"):
        (tmp_path / name).write_bytes(name.encode())
    write_checksums(tmp_path)
    sums = write_checksums(tmp_path).read_text("utf-8")
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("a.tar.gz", "b.whl")}
    assert sums == "".join(f"{digest}  {name}\n" for name, digest in digests.items())
