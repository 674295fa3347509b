"""The example workflows: schemas where those are installed, shell that parses, and a command line that there is."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from export.commands.build import build_command
from export.pipeline.config import load_pipeline
from export.pipeline.matrix import wished_packages
from export.pipeline.report_files import check_report_path
from tests.paths import ROOT

FOLDER = ROOT / "deploy" / "ci"
SCHEMAS = {"github-actions.yml": "github-workflows.json", "gitlab-ci.yml": "gitlab-ci.json"}


def workflow(name: str) -> dict[str, Any]:
    """YAML 1.2 has no ``on`` for true."""
    found: dict[Any, Any] = yaml.safe_load((FOLDER / name).read_text("utf-8"))
    return {"on" if key is True else key: value for key, value in found.items()}


def scripts(name: str) -> list[str]:
    found = workflow(name)
    if name == "gitlab-ci.yml":
        job = found["packages"]
        return ["\n".join(job[part]) for part in ("before_script", "script", "after_script")]
    return [step["run"] for step in found["jobs"]["build"]["steps"] if "run" in step]


@pytest.mark.parametrize("name", SCHEMAS)
def test_workflows_are_what_their_services_take(name: str) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="make test-deploy installs it")
    found = importlib.util.find_spec("check_jsonschema")  # for its schemas: what it imports is not installed
    if found is None or found.origin is None:
        pytest.skip("make test-deploy installs the schemas")
    folder = Path(found.origin).parent / "builtin_schemas" / "vendor"
    schema = json.loads((folder / SCHEMAS[name]).read_text("utf-8"))
    validator = jsonschema.validators.validator_for(schema)(schema)
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(workflow(name))] == []
    broken = {**workflow(name), "jobs" if name.startswith("github") else "packages": {"build": {"runs_on": 1}}}
    assert list(validator.iter_errors(broken))  # the schema would have noticed


@pytest.mark.parametrize("name", SCHEMAS)
def test_their_shell_parses_and_builds_with_flags_that_there_are(name: str, tmp_path: Path) -> None:
    flags = {flag for option in build_command.params for flag in option.opts}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    builds = 0
    for text in scripts(name):
        subprocess.run(["bash", "-n", "-c", text], check=True, cwd=tmp_path)
        for line in text.replace("\\\n", " ").splitlines():
            if "powertrain build" in line:
                builds += 1
                words = shlex.split(line)
                assert {word for word in words if word.startswith("--")} <= flags
                reports = [Path(after) for word, after in pairwise(words) if word == "--report"]
                assert [path.suffix for path in reports] == [".json", ".xml", ".md"]
                for path in reports:
                    check_report_path(path)
            if line.startswith("make "):
                assert set(line.split()[1:]) <= targets
    assert builds == 1


def test_what_a_build_writes_is_what_the_workflows_keep_and_compare_with() -> None:
    github, gitlab = (" ".join(scripts(name)) for name in SCHEMAS)
    steps = workflow("github-actions.yml")["jobs"]["build"]["steps"]
    uploads = {step["with"]["name"]: step["with"]["path"] for step in steps if "upload" in step.get("uses", "")}
    assert uploads == {"build-report": "reports", "build-logs": ".steps/logs"}
    assert "--name build-report --dir baseline" in github
    assert f"--workflow {workflow('github-actions.yml')['name']} " in github
    job = workflow("gitlab-ci.yml")["packages"]
    assert job["artifacts"]["reports"]["junit"] == "reports/junit.xml"
    assert "/raw/reports/build.json?job=packages" in gitlab
    for text in (github, gitlab):
        assert "--cache .steps" in text
        assert text.count("baseline/build.json") >= 2


def test_values_that_others_choose_reach_no_shell_as_code() -> None:
    """``${{ ... }}`` in a script is pasted before the shell reads it."""
    assert not [text for text in scripts("github-actions.yml") if "${{" in text]


def test_the_pipeline_beside_them_is_one() -> None:
    wishes = wished_packages(load_pipeline(FOLDER / "pipeline.toml"), FOLDER, ROOT / "models")
    assert {wish.recipe.name: [(gate.key, gate.target) for gate in wish.gates] for wish in wishes} == {
        "smollm2-int8": [("max_size", None), ("min_accuracy", None), ("max_kl", None), ("max_bits_per_byte", None),
                         ("max_size", "sm89")],
        "smollm2-int4": [("max_size", None), ("min_accuracy", None), ("max_size", "sm89")],
    }  # fmt: skip
