"""What compose, Prometheus, Grafana, the chart and KServe's runtime say about the server agrees with the server."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

from api.edge.limits import PROBE_PATHS
from api.server_settings import Settings
from api.settings import CONFIG_VARIABLE, HOME_VARIABLE
from bench.commands.probe import LIVE, READY
from tests.paths import ROOT

DEPLOY = ROOT / "deploy"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
DRAIN = Settings().drain_timeout_s


def read(path: str) -> Any:
    return yaml.safe_load((DEPLOY / path).read_text("utf-8"))


def texts() -> dict[Path, str]:
    return {
        path: path.read_text("utf-8") for path in sorted(DEPLOY.rglob("*")) if path.is_file() and path.name != "key"
    }


def test_every_setting_that_is_named_is_one() -> None:
    known = {f"POWERTRAIN_{item.name.upper()}" for item in dataclasses.fields(Settings)}
    known |= {CONFIG_VARIABLE, HOME_VARIABLE}
    named = {name for text in texts().values() for name in re.findall(r"POWERTRAIN_[A-Z_]*[A-Z]", text)}
    assert named - known == set()
    assert len(named) > 8
    schema = json.loads((DEPLOY / "helm/powertrain/values.schema.json").read_text("utf-8"))
    assert set(read("helm/powertrain/values.yaml")) | {"global"} == set(schema["properties"])


def test_every_image_of_ours_has_this_version_and_no_other_s_floats() -> None:
    images = [
        found for text in texts().values() for found in re.findall(r"^\s*(?:- )?image: (\S+)", text, re.MULTILINE)
    ]
    ours = {image for image in images if image.startswith("powertrain:")}
    assert {image.removeprefix("powertrain:").split("-")[0] for image in ours} == {VERSION}
    others = {image for image in images if not image.startswith(("powertrain:", "{{"))}
    assert len(others) == 3
    assert all(re.search(r":v?\d+\.\d+\.\d+$", image) for image in others)
    chart = read("helm/powertrain/Chart.yaml")
    assert chart["appVersion"] == VERSION


def test_probes_and_scrapes_ask_paths_that_there_are() -> None:
    asked = {path for text in texts().values() for path in re.findall(r"/v1/(?:health|metrics)[a-z/]*", text)}
    assert asked == {LIVE, READY, "/v1/metrics"}
    assert asked <= PROBE_PATHS


def test_compose_keeps_the_server_in_bounds() -> None:
    compose = read("compose/compose.yaml")
    server = compose["services"]["server"]
    assert server["read_only"] is True
    assert server["cap_drop"] == ["ALL"]
    assert server["security_opt"] == ["no-new-privileges:true"]
    assert int(server["stop_grace_period"].removesuffix("s")) > DRAIN + 5
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (DEPLOY / "compose" / source).resolve().exists(), source
            assert source in compose["volumes"] or volume.endswith(":ro")
    build = server["build"]
    assert ((DEPLOY / "compose" / build["context"]).resolve() / build["dockerfile"]).is_file()


def test_prometheus_finds_the_server_and_grafana_the_dashboard() -> None:
    (job,) = read("compose/prometheus.yaml")["scrape_configs"]
    compose = read("compose/compose.yaml")
    (target,) = job["static_configs"][0]["targets"]
    assert target == "server:8000"
    assert "server" in compose["services"]
    (secret,) = compose["services"]["prometheus"]["secrets"]
    assert job["authorization"] == {"credentials_file": f"/run/secrets/{secret}"}
    assert compose["services"]["server"]["environment"]["POWERTRAIN_API_KEY_FILE"] == f"/run/secrets/{secret}"
    (source,) = read("compose/grafana/datasources.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = read("compose/grafana/dashboards.yaml")["providers"]
    mounts = dict(volume.split(":")[1::-1] for volume in compose["services"]["grafana"]["volumes"])
    dashboard = f"{provider['options']['path']}/powertrain.json"
    assert (DEPLOY / "compose" / mounts[dashboard]).resolve() == ROOT / "docs" / "grafana-dashboard.json"


def test_the_adapter_makes_the_metric_that_the_autoscaler_asks_for() -> None:
    (rule,) = read("helm/prometheus-adapter.values.yaml")["rules"]["custom"]
    assert rule["name"]["as"] == read("helm/powertrain/values.yaml")["autoscaling"]["metric"]
    series = rule["seriesQuery"].split("{")[0]
    assert re.fullmatch(rule["name"]["matches"], series)
    assert f'"{series}"' in (ROOT / "api/observe/metrics.py").read_text("utf-8")


def test_kserve_s_runtime_serves_where_kserve_puts_a_model() -> None:
    spec = read("kserve/servingruntime.yaml")["spec"]
    (container,) = spec["containers"]
    assert container["name"] == "kserve-container"
    assert container["args"][0] == "/mnt/models"
    environ = {item["name"]: item["value"] for item in container["env"]}
    port = container["ports"][0]["containerPort"]
    assert environ["POWERTRAIN_PORT"] == spec["annotations"]["prometheus.kserve.io/port"] == str(port)
    service = read("kserve/inferenceservice.yaml")["spec"]["predictor"]
    assert service["model"]["modelFormat"]["name"] == spec["supportedModelFormats"][0]["name"]
    assert service["terminationGracePeriodSeconds"] > DRAIN + 5
    assert service["enableServiceLinks"] is False  # a service named powertrain would set POWERTRAIN_PORT
