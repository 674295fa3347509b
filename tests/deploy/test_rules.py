"""The alerts: promtool's own unit tests of them, and that each leads to a heading of the runbook."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.paths import ROOT

RULES = ROOT / "deploy" / "helm" / "powertrain" / "files" / "rules.yaml"
UNIT_TESTS = Path(__file__).with_name("rules_test.yaml")
RUNBOOK = ROOT / "docs" / "runbook.md"


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return [rule for rule in group["rules"] if "alert" in rule]


def headings(page: Path) -> set[str]:
    """The anchors of a page, as forges and MkDocs make them."""
    found = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", title.lower()).replace(" ", "-") for title in found}


def test_each_alert_says_how_bad_it_is_and_what_to_do() -> None:
    anchors = headings(RUNBOOK)
    for alert in alerts():
        assert alert["labels"]["severity"] in {"critical", "warning", "info"}
        page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
        assert page == "docs/runbook.md"
        assert anchor in anchors, alert["alert"]
        assert f"`{alert['alert']}`" in RUNBOOK.read_text("utf-8")
    names = [alert["alert"] for alert in alerts()]
    assert len(set(names)) == len(names) > 10


def test_each_alert_has_a_case_in_which_it_fires_and_two_in_which_it_does_not() -> None:
    cases = [
        case for test in yaml.safe_load(UNIT_TESTS.read_text("utf-8"))["tests"] for case in test["alert_rule_test"]
    ]
    for alert in alerts():
        of_alert = [bool(case.get("exp_alerts")) for case in cases if case["alertname"] == alert["alert"]]
        assert of_alert.count(True) >= 1, alert["alert"]
        assert of_alert.count(False) >= 2, alert["alert"]


@pytest.mark.deploy
def test_promtool_finds_the_alerts_right(tmp_path: Path) -> None:
    promtool = shutil.which("promtool", path=str(Path(sys.executable).parent)) or shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; make test-deploy takes it from Debian's package where apt-get has it")
    configured = tmp_path / "prometheus.yaml"
    configured.write_text((ROOT / "deploy/compose/prometheus.yaml").read_text("utf-8"), "utf-8")
    for path in (RULES, UNIT_TESTS):
        shutil.copy(path, tmp_path)
    (tmp_path / "powertrain-key").write_text("k", "utf-8")
    text = configured.read_text("utf-8").replace("/run/secrets/powertrain-key", str(tmp_path / "powertrain-key"))
    configured.write_text(text, "utf-8")
    for words in (["check", "config", str(configured)], ["test", "rules", str(tmp_path / UNIT_TESTS.name)]):
        done = subprocess.run([promtool, *words], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "SUCCESS" in done.stdout
