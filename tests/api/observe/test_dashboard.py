"""The dashboard in the documentation asks only for metrics that the server exposes."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import cast

from api.observe.gpu_watch import GpuReading, GpuWatch
from api.observe.metrics import ServerMetrics
from runtime.engine.step_report import EngineStats
from tests.api.scripted_server import RunningServer
from tests.paths import ROOT

DASHBOARD = ROOT / "docs" / "grafana-dashboard.json"
_WORDS = {"sum", "by", "le", "rate", "max", "code", "finished_reason", "model_name", "model", "histogram_quantile"}


def test_every_metric_of_the_dashboard_exists(server: RunningServer) -> None:
    server.chat("ab")
    server.post({"messages": []})
    watched = ServerMetrics("mine", lambda: EngineStats(run_ns=2_500_000_000), vllm_names=False)
    reading = GpuReading(used_bytes=1, total_bytes=2, utilization=0.5)
    watched.watch_gpu(cast("GpuWatch", SimpleNamespace(uuid="GPU-1", latest=lambda: reading)))
    page = server.get("/v1/metrics").text + watched.page().decode()
    assert 'engine_run_seconds_total{model_name="mine"} 2.5\n' in page
    exposed = set(re.findall(r"^([a-z0-9_:]+)[{ ]", page, re.MULTILINE))
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    names = set(re.findall(r"[a-z][a-z0-9_]{3,}", " ".join(expressions).replace("__rate_interval", "")))
    assert names - _WORDS <= exposed
    assert {name for name in exposed if name.startswith("nv_gpu")} <= names
    assert len({panel["id"] for panel in panels}) == len(panels) == 14
