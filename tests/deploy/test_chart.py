"""The Helm chart, rendered by Helm's own library and held to Kubernetes' schemas. make test-deploy installs both.

The schemas of PodMonitor, ServingRuntime and InferenceService are read from the folder that DEPLOY_CRDS names, if any.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.test_manifests import VERSION
from tests.paths import ROOT

helm = pytest.importorskip("helm_python", reason="make test-deploy installs Helm's library")
kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="make test-deploy installs the schemas")

CHART = ROOT / "deploy" / "helm" / "powertrain"
KEYED: dict[str, Any] = {"apiKey": {"existingSecret": "keys"}, "package": {"claimName": "models"}}
EVERYTHING: dict[str, Any] = KEYED | {
    "backend": "tensorrt",
    "gpu": {"runtimeClassName": "nvidia", "count": 2},
    "autoscaling": {"enabled": True},
    "podMonitor": {"enabled": True, "labels": {"release": "p"}, "keySecret": {"name": "scrape", "key": "key"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "p"}, "runbook": "https://wiki.example/llm"},
    "networkPolicy": {"scrapeFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]},
    "settings": {"max_model_len": 4096, "max_predicted_wait_s": 2.5, "prefix_cache": False, "max_body_bytes": 10000000},
    "drainSeconds": 120,
    "imagePullSecrets": [{"name": "pull"}],
    "nodeSelector": {"gpu": "l40s"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    "podAnnotations": {"a": "b"},
    "podLabels": {"team": "x"},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "priorityClassName": "high",
    "extraEnv": [{"name": "HF_HUB_OFFLINE", "value": "1"}],
    "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
}
OPEN: dict[str, Any] = {"allowPublicWithoutKey": True, "package": {"from": "image"}}
BUILT: dict[str, Any] = KEYED | {"package": {"from": "build", "model": "smollm2-135m-instruct"}}
CASES = {"keyed": KEYED, "everything": EVERYTHING, "open": OPEN, "built": BUILT}


def render(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What Helm makes of the chart in the namespace ``ns`` as release ``llm``: each object by its kind."""
    with helm.Chart.load(CHART) as chart:
        files = chart.render(values, name="llm", namespace="ns")
    loaded = [yaml.safe_load(text) for name, text in files.items() if name.endswith(".yaml")]
    return {item["kind"]: item for item in loaded if item}


def pod_of(values: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = render(values)["Deployment"]["spec"]["template"]["spec"]
    return pod


def environ(container: dict[str, Any]) -> dict[str, str]:
    return {item["name"]: item["value"] for item in container["env"]}


def check_against_crd(folder: Path, item: dict[str, Any]) -> None:
    """Validate a custom resource against its definition's schema, in which unknown fields are errors."""
    import jsonschema

    def strict(node: object) -> None:
        if isinstance(node, dict):
            if "properties" in node and not node.get("x-kubernetes-preserve-unknown-fields"):
                node.setdefault("additionalProperties", False)
            if node.get("x-kubernetes-int-or-string"):
                node.pop("type", None)
        for below in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            strict(below)

    group, _, version = item["apiVersion"].partition("/")
    crd = yaml.safe_load((folder / f"{group}_{item['kind'].lower()}s.yaml").read_text("utf-8"))
    (schema,) = [each["schema"]["openAPIV3Schema"] for each in crd["spec"]["versions"] if each["name"] == version]
    schema["properties"].pop("metadata")
    strict(schema)
    schema["properties"]["metadata"] = {"type": "object"}
    jsonschema.validate(item, schema)


def crds() -> Path:
    named = os.environ.get("DEPLOY_CRDS")
    if not named:
        pytest.skip("DEPLOY_CRDS names no folder of custom resource definitions")
    return Path(named)


@pytest.mark.parametrize("version", ["1.30", "1.37"])
@pytest.mark.parametrize("case", sorted(CASES))
def test_what_is_rendered_satisfies_kubernetes(case: str, version: str) -> None:
    objects = render(CASES[case])
    expected = {"Deployment", "Service", "ServiceAccount", "PodDisruptionBudget", "NetworkPolicy"}
    if case == "everything":
        expected |= {"HorizontalPodAutoscaler", "PodMonitor", "PrometheusRule"}
    assert set(objects) == expected
    for kind, item in objects.items():
        assert item["metadata"]["namespace"] == "ns"
        if kind not in {"PodMonitor", "PrometheusRule"}:
            kubernetes_validate.validate(item, version, strict=True)


def test_helm_s_linter_has_no_warning() -> None:
    for values in CASES.values():
        report = helm.lint(CHART, values, strict=True)
        assert report["errors"] == []
        assert [item for item in report["messages"] if item["severity"] > 1] == []


def test_everything_selects_the_same_pods() -> None:
    objects = render(EVERYTHING)
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        objects["Deployment"]["spec"]["selector"]["matchLabels"],
        objects["Service"]["spec"]["selector"],
        objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        objects["PodMonitor"]["spec"]["selector"]["matchLabels"],
    ]
    assert all(selector == selectors[0] for selector in selectors)
    assert selectors[0].items() <= labels.items()
    assert labels["team"] == "x"
    target = objects["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert target["name"] == objects["Deployment"]["metadata"]["name"] == "llm-powertrain"
    (metric,) = objects["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert metric["pods"]["target"] == {"type": "AverageValue", "averageValue": "4"}
    assert "replicas" not in objects["Deployment"]["spec"]
    assert render(KEYED)["Deployment"]["spec"]["replicas"] == 1


def test_the_rules_are_those_of_the_file_and_lead_to_the_runbook() -> None:
    item = render(EVERYTHING)["PrometheusRule"]
    assert item["metadata"]["labels"]["release"] == "p"
    of_file = (CHART / "files" / "rules.yaml").read_text("utf-8")
    assert item["spec"] == yaml.safe_load(of_file.replace("docs/runbook.md#", "https://wiki.example/llm#"))
    assert "docs/runbook.md" not in str(item)


@pytest.mark.parametrize("case", sorted(CASES))
def test_no_container_has_rights(case: str) -> None:
    pod = pod_of(CASES[case])
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is pod["enableServiceLinks"] is False
    containers = [*pod["containers"], *pod.get("initContainers", ())]
    for container in containers:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]
        assert "latest" not in container["image"]


def test_a_pod_has_time_to_drain() -> None:
    for values in CASES.values():
        pod = pod_of(values)
        (server,) = pod["containers"]
        drain = int(environ(server)["POWERTRAIN_DRAIN_TIMEOUT_S"])
        assert drain == values.get("drainSeconds", 30)
        before = server["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pod["terminationGracePeriodSeconds"] == before + drain + 10
    probe = server["startupProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] == 600
    assert server["livenessProbe"]["httpGet"]["path"] == "/v1/health/live"
    assert server["readinessProbe"]["httpGet"]["path"] == "/v1/health/ready"


def test_a_gpu_is_asked_for_by_those_that_use_one() -> None:
    pod = pod_of(EVERYTHING)
    (server,) = pod["containers"]
    assert server["resources"]["limits"] == {"memory": "4Gi", "nvidia.com/gpu": "2"}
    assert server["image"] == f"powertrain:{VERSION}-tensorrt"
    assert pod["runtimeClassName"] == "nvidia"
    pod = pod_of(KEYED | {"gpu": {"runtimeClassName": "nvidia"}})
    assert "nvidia.com/gpu" not in pod["containers"][0]["resources"]["limits"]
    assert "runtimeClassName" not in pod
    digest = "sha256:" + "0" * 64
    assert pod_of(KEYED | {"image": {"digest": digest}})["containers"][0]["image"] == f"powertrain@{digest}"


def test_settings_become_variables_that_the_server_reads() -> None:
    from api.settings import resolve_settings

    (server,) = pod_of(EVERYTHING)["containers"]
    given = environ(server)
    settings = resolve_settings({}, environ=given).settings
    assert (settings.max_model_len, settings.max_predicted_wait_s, settings.prefix_cache) == (4096, 2.5, False)
    assert (settings.max_body_bytes, settings.backend, settings.drain_timeout_s) == (10_000_000, "tensorrt", 120.0)
    assert settings.api_key_file == "/etc/powertrain/keys"
    (server,) = pod_of(OPEN | {"settings": {"served_model_name": ["a", "b"]}})["containers"]
    settings = resolve_settings({}, environ=environ(server)).settings
    names = ("llm-powertrain", "llm-powertrain.ns", "llm-powertrain.ns.svc", "llm-powertrain.ns.svc.cluster.local")
    assert settings.allowed_host == names
    assert settings.served_model_name == ("a", "b")
    assert settings.allow_public_without_key is True
    assert settings.model is None


@pytest.mark.parametrize("case", sorted(CASES))
def test_the_package_is_where_the_server_looks(case: str) -> None:
    pod = pod_of(CASES[case])
    (server,) = pod["containers"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["name"]: mount for mount in server["volumeMounts"]}
    assert set(mounts) == set(volumes)
    assert ("models" in mounts) == (case != "open")
    if "models" in mounts:
        assert mounts["models"] == {"name": "models", "mountPath": "/models", "readOnly": True}
    if case == "built":
        (build,) = pod["initContainers"]
        assert build["command"][-1] == "smollm2-135m-instruct"
        assert build["command"][:4] == ["powertrain", "export", "--output", "/models/package"]
        assert environ(server)["POWERTRAIN_MODEL"] == "/models/package"
    else:
        assert "initContainers" not in pod
    if "keys" in volumes:
        assert volumes["keys"]["secret"]["defaultMode"] == 0o440


def test_pods_reach_nothing_but_what_building_needs() -> None:
    for case in ("keyed", "open", "everything"):
        policy = render(CASES[case])["NetworkPolicy"]["spec"]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        assert policy["egress"] == []
        assert policy["ingress"][0]["ports"] == [{"port": "http", "protocol": "TCP"}]
        assert policy["ingress"][0]["from"][0] == {"podSelector": {}}
    assert len(policy["ingress"][0]["from"]) == 2  # of everything: whoever scrapes, too
    (rule,) = render(BUILT)["NetworkPolicy"]["spec"]["egress"]
    assert sorted((item["port"], item["protocol"]) for item in rule["ports"]) == [
        (53, "TCP"),
        (53, "UDP"),
        (443, "TCP"),
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"package": {"claimName": "x"}}, "apiKey.existingSecret names no Secret of API keys"),
        (KEYED | {"allowPublicWithoutKey": True}, "contradict each other"),
        ({"apiKey": {"existingSecret": "k"}}, "package.claimName must name a PersistentVolumeClaim"),
        (KEYED | {"package": {"from": "build"}}, "package.model must say what to build"),
        (BUILT | {"backend": "tensorrt"}, "TensorRT's plans are not built in a pod"),
        (KEYED | {"settings": {"port": 9000}}, "settings.port is the chart's own"),
        (KEYED | {"podMonitor": {"enabled": True}}, "podMonitor.keySecret must name"),
        (KEYED | {"backend": "rocm"}, "backend"),
        (KEYED | {"replica": 2}, "replica"),
        (KEYED | {"image": {"tag": "latest"}}, "tag"),
    ],
)
def test_what_cannot_be_meant_ends_the_rendering(values: dict[str, Any], message: str) -> None:
    with pytest.raises(helm.HelmError) as caught:
        render(values)
    assert message in str(caught.value)


def test_custom_resources_satisfy_their_definitions() -> None:
    folder = crds()
    check_against_crd(folder, render(EVERYTHING)["PodMonitor"])
    check_against_crd(folder, render(EVERYTHING)["PrometheusRule"])
    for name in ("servingruntime", "inferenceservice"):
        check_against_crd(folder, yaml.safe_load((ROOT / f"deploy/kserve/{name}.yaml").read_text("utf-8")))
