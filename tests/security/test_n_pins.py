"""Class N, other people's code: no code of a model is run, and no pinned package has a known vulnerability.

Repeats the causes of CVE-2026-65119 (TensorRT-LLM: a tokenizer's code), CVE-2026-4372 (transformers: a config that
names code) and of every advisory in ``requirements/advisories.json``, by refusing the versions that have it.
"""

from __future__ import annotations

import ast
import json
import tomllib
from typing import Any

import pytest
from packaging.utils import canonicalize_name

from export.errors import SourceError
from export.package.optimum import refuse_foreign_code
from requirements.audit import (
    ADVISORIES,
    Pin,
    all_pins,
    main,
    pins_of,
    problems_of,
    problems_of_report,
    read_advisories,
)
from tests.paths import ROOT
from tests.security.source_code import calls, keyword, trees


def test_no_remote_code_is_asked_for() -> None:
    for path, tree in trees():
        for call in calls(tree):
            assert keyword(call, "trust_remote_code") in {None, False}, path
        words = {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert "--trust-remote-code" not in words, path


def test_modules_are_imported_by_name_from_fixed_lists_only() -> None:
    allowed = {"runtime/commands/lazy_group.py", "export/plan/library.py", "runtime/loading/backend_probe.py",
               "runtime/session/gpu/libraries.py", "runtime/session/gpu/trt/session.py",
               "runtime/text/template/worker.py"}  # fmt: skip
    for path, tree in trees():
        for call in calls(tree):
            is_import = isinstance(call.func, ast.Attribute) and call.func.attr == "import_module"
            if is_import and not isinstance(call.args[0], ast.Constant):
                assert path in allowed


@pytest.mark.parametrize(
    "config",
    [
        {"_attn_implementation_internal": "evil/kernel"},
        {"_attn_implementation": "evil/kernel@main:f"},
        {"attn_implementation": {"": "evil/kernel"}},
        {"text_config": {"deep": {"_experts_implementation": "evil/kernel"}}},
        {"trust_remote_code": True},
        {"keypoint_config": {"trust_remote_code": "yes"}},
    ],
)
def test_a_config_that_names_code_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(SourceError, match="code of other repositories is not run"):
        refuse_foreign_code(config)


def test_a_config_that_names_a_built_in_is_not() -> None:
    names = {"_attn_implementation": "sdpa", "_name_or_path": "owner/name"}
    refuse_foreign_code({**names, "a": {"b": [1]}, "c": None, "trust_remote_code": False})


def test_no_pin_has_a_known_vulnerability(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0, capsys.readouterr().out


def test_every_pin_is_looked_at() -> None:
    pins = all_pins()
    assert {path.name for path in (ROOT / "requirements").glob("*.txt")} | {"pyproject.toml"} == {
        pin.file for pin in pins
    }
    assert Pin("cpu.txt", "onnx", "1.23.2") in pins
    assert Pin("optimum.txt", "transformers", "4.57") in pins
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = {canonicalize_name(line.split(">")[0].split("=")[0]) for line in project["dependencies"]}
    assert named == {pin.name for pin in pins} & named


def test_what_is_pinned_again_would_be_found() -> None:
    advisories, accepted = read_advisories()
    lines = [
        "onnx==1.20.1 \\",
        "    --hash=sha256:00 \\",
        "urllib3==2.6.5 ; python_version > '3'",
        "# h11==0.1",
        "h11==0.15.0",
    ]
    assert problems_of(pins_of(lines, "x.txt"), advisories, accepted) == [
        "x.txt: h11 0.15.0 is affected by CVE-2025-43859; fixed in 0.16.0",
        "x.txt: onnx 1.20.1 is affected by CVE-2026-27489; fixed in 1.21.0",
        "x.txt: onnx 1.20.1 is affected by CVE-2026-34446; fixed in 1.21.0",
        "x.txt: onnx 1.20.1 is affected by CVE-2026-34447; fixed in 1.21.0",
        "x.txt: urllib3 2.6.5 is affected by CVE-2026-44432; fixed in 2.7.0",
    ]
    for advisory in advisories:  # each has a version that it affects, and its own remedy is none of them
        assert advisory.affects(
            Pin("", canonicalize_name(advisory.package), advisory.last_affected or advisory.introduced)
        )
        if advisory.fixed:
            assert not advisory.affects(Pin("", canonicalize_name(advisory.package), advisory.fixed))


def test_what_is_accepted_has_a_reason_and_is_still_there() -> None:
    advisories, accepted = read_advisories()
    assert len(accepted) == len(json.loads(ADVISORIES.read_text("utf-8"))["accepted"])
    open_problems = {line.split(" by ")[1].split(";")[0] for line in problems_of(all_pins(), advisories)}
    assert {identity for identity, _ in accepted} == open_problems


def test_a_report_of_the_index_is_judged_too() -> None:
    vuln = {"id": "PYSEC-2026-1", "aliases": ["CVE-2026-1"], "fix_versions": ["2.0"], "description": ""}
    report = {
        "dependencies": [
            {"name": "a", "version": "1.0", "vulns": [vuln]},
            {"name": "b", "version": "1.0", "vulns": []},
            {"name": "c", "skip_reason": "not found"},
        ]
    }
    assert problems_of_report(report, set()) == (["a 1.0 is affected by PYSEC-2026-1; fixed in 2.0"], 2)
    assert problems_of_report(report, {("CVE-2026-1", "a")}) == ([], 2)
