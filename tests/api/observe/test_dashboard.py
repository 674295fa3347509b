"""The dashboard and the alerts ask only for metrics, and labels, that the server exposes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from types import SimpleNamespace
from typing import cast

import pytest
import yaml

from api.clients.client import ClientLimits, Clients
from api.observe.gpu_watch import GpuReading, GpuWatch
from api.observe.metrics import ServerMetrics
from api.observe.model_metrics import ModelReading, watch_models
from runtime.engine.step_report import EngineStats
from tests.api.scripted_server import RunningServer
from tests.paths import ROOT

DASHBOARD = ROOT / "docs" / "grafana-dashboard.json"
RULES = ROOT / "deploy" / "helm" / "powertrain" / "files" / "rules.yaml"
_LABELS_OF_PROMETHEUS = {"job", "instance"}
_METRICS_OF_PROMETHEUS = {"up"}


@pytest.fixture(scope="module")
def exposed(server: RunningServer) -> dict[str, set[str]]:
    """The labels of each sample that a server with everything shows, by name."""
    server.chat("ab")
    server.post({"messages": []})
    watched = ServerMetrics("mine", lambda: EngineStats(run_ns=2_500_000_000), vllm_names=False)
    reading = GpuReading(used_bytes=1, total_bytes=2, utilization=0.5)
    watched.watch_gpu(cast("GpuWatch", SimpleNamespace(uuid="GPU-1", latest=lambda: reading)))
    clients = Clients()
    clients.limit({"team-a": ClientLimits()})
    watched.watch_clients(clients)
    watched.observe_cut("no_descriptor")
    model = ModelReading(
        name="mine",
        state="failed",
        device="cpu",
        memory_bytes=1,
        num_waiting=0,
        num_loads=1,
        num_failures=1,
        num_evictions=0,
    )
    watch_models(watched.registry, lambda: [model], {"cpu": 2})
    page = server.get("/v1/metrics").text + watched.page().decode()
    assert 'engine_run_seconds_total{model_name="mine"} 2.5\n' in page
    found: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^([a-z0-9_:]+)(?:\{(.*)\})? \S+$", page, re.MULTILINE):
        found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


def panels() -> list[str]:
    found = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    assert len({panel["id"] for panel in found}) == len(found) == 21
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in found}
    assert len(places) == len(found)
    return [target["expr"] for panel in found for target in panel["targets"]]


def rules() -> list[str]:
    (group,) = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return [rule["expr"] for rule in group["rules"]]


def metrics_in(expressions: Iterable[str]) -> dict[str, set[str]]:
    """Each metric of PromQL expressions, and the labels that it is asked for by."""
    found: dict[str, set[str]] = {}
    for expression in expressions:
        groups = re.findall(r"(?:by|on) \(([a-z_, ]+)\)", expression)
        grouped = {label for group in groups for label in group.split(", ")}
        bare = re.sub(r"(?:by|on) \([a-z_, ]+\)|\[[^]]*\]", "", expression)
        for name, labels in re.findall(r"\b([a-z][a-z0-9_:]*)\b(?!\s*\()(?:\{([^}]*)\})?", bare):
            if name not in {"and", "or"}:
                found.setdefault(name, set()).update(re.findall(r"(\w+)(?:=|=~|!=)\"", labels), grouped)
    return found


def test_every_metric_and_label_of_the_dashboard_exists(exposed: dict[str, set[str]]) -> None:
    asked = metrics_in(panels())
    assert set(asked) - set(exposed) == set()
    for name, labels in asked.items():
        assert labels <= exposed[name], name
    shown = {name for name in exposed if name.startswith(("nv_gpu", "powertrain_")) and not name.endswith("_created")}
    assert shown == {name for name in asked if name.startswith(("nv_gpu", "powertrain_"))}


def test_every_metric_and_label_of_the_alerts_exists(exposed: dict[str, set[str]]) -> None:
    asked = metrics_in(rules())
    made = {name for name in asked if name.startswith("powertrain:")}
    assert set(asked) - made - _METRICS_OF_PROMETHEUS - set(exposed) == set()
    for name in set(asked) & set(exposed):
        assert asked[name] - _LABELS_OF_PROMETHEUS <= exposed[name], name
    assert len(asked) > 15


def test_readiness_is_the_probe_s(server: RunningServer) -> None:
    assert server.metric("powertrain_ready") == 1.0
