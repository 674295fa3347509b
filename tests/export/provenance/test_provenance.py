"""What packages and plans say of where they come from: the right things, in published forms, in the same bytes."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest
from msgspec.structs import replace

from export.provenance.bom import package_bom
from export.provenance.files import (
    add_plan_provenance,
    add_provenance,
    has_plan_provenance,
    plan_provenance,
    with_provenance,
)
from export.provenance.statement import package_predicate
from export.source.hub import snapshot_commit
from export.source.recipe import FileSource, FolderSource, Recipe
from runtime.package.manifest import (
    BOM_FILE,
    PROVENANCE_FILE,
    AdapterInfo,
    GraphInfo,
    Manifest,
    Quality,
    SourceInfo,
    load_package,
    read_manifest,
    write_manifest,
)
from runtime.package.plan_sidecar import PlanSidecar
from tests.runtime.package.made import make_package, plan_key, plan_sidecar

COMMIT = "c0ffee" + "0" * 34
SOURCE = SourceInfo("safetensors", "owner/tiny@main", "5" * 64, "Apache-2.0", COMMIT)
QUALITY = Quality("built-in prose", 100, 0.0125, 0.25, 0.975, 10.5, 10.25, 0.05)
GRAPH = GraphInfo("ort/model.onnx", "float32", ("cpu",), {"mlp": "int8 block 64"}, 1, 1)
TOOLS = {"powertrain": "0.1.0", "onnx": "1.23.2"}
RECIPE = Recipe(name="tiny", source=FileSource(path="/home/someone/tiny.gguf"), block=64)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    changes: dict[str, Any] = {"source": SOURCE, "quality": QUALITY, "tools": TOOLS, "graphs": {"ort": GRAPH}}
    root = make_package(tmp_path / "tiny", **changes, recipe=RECIPE.settings(), build_seconds=9.5, created_unix=100_000)
    write_manifest(root, add_provenance(root, read_manifest(root)))
    return root


def sidecar(root: Path) -> PlanSidecar:
    key = plan_key(graph_sha256={"trt/model.onnx": "7" * 64}, max_logits=1)
    (root / "trt").mkdir(exist_ok=True)
    return plan_sidecar(key, precision={"mlp": "int8"})


def check_statement(statement: dict[str, Any], subjects: dict[str, str]) -> dict[str, Any]:
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert {one["name"]: one["digest"]["sha256"] for one in statement["subject"]} == subjects
    predicate: dict[str, Any] = statement["predicate"]
    assert predicate["buildDefinition"]["resolvedDependencies"][0] == {
        "name": "owner/tiny@main",
        "digest": {"sha256": "5" * 64},
        "annotations": {"kind": "safetensors", "license": "Apache-2.0", "revision": COMMIT},
    }
    (quality,) = predicate["runDetails"]["byproducts"]
    assert (quality["name"], quality["annotations"]["mean_kl"]) == ("quality", 0.0125)
    assert "metadata" not in predicate["runDetails"]
    return predicate


def test_a_package_says_of_what_by_what_and_how_it_was_made(root: Path) -> None:
    manifest = load_package(root).manifest
    statement = json.loads((root / PROVENANCE_FILE).read_text())
    subjects = {name: info.sha256 for name, info in manifest.files.items() if name != PROVENANCE_FILE}
    predicate = check_statement(statement, subjects)
    build = predicate["buildDefinition"]
    assert build["externalParameters"]["recipe"]["block"] == 64
    assert build["externalParameters"]["recipe"]["precision"] == "int8"
    assert build["internalParameters"]["graphs"]["ort"] == {"cache": "float32", "precision": {"mlp": "int8 block 64"}}
    assert predicate["runDetails"]["builder"] == {"id": "urn:powertrain:builder", "version": TOOLS}
    signed = package_predicate(manifest, with_times=True)
    assert signed["runDetails"]["metadata"] == {
        "startedOn": "1970-01-02T03:46:31Z",
        "finishedOn": "1970-01-02T03:46:40Z",
    }


def test_a_merged_adapter_is_one_of_the_sources(root: Path) -> None:
    manifest = read_manifest(root)
    source = replace(manifest.source, adapter=AdapterInfo("legal", "6" * 64))
    merged = replace(manifest, source=source)
    assert package_predicate(merged)["buildDefinition"]["resolvedDependencies"][1:] == [
        {"name": "legal", "digest": {"sha256": "6" * 64}, "annotations": {"kind": "adapter"}}
    ]
    bom = json.loads(package_bom(merged, {}))
    ancestors = bom["metadata"]["component"]["pedigree"]["ancestors"]
    assert {one["name"]: one["hashes"][0]["content"] for one in ancestors} == {
        "owner/tiny@main": "5" * 64,
        "legal": "6" * 64,
    }


def test_a_plan_says_what_it_was_compiled_from(root: Path) -> None:
    manifest, plan = read_manifest(root), sidecar(root)
    files = plan_provenance(manifest, plan)
    predicate = check_statement(json.loads(files["sm89.plan.intoto.json"]), {"trt/sm89.plan": "9" * 64})
    build = predicate["buildDefinition"]
    assert build["resolvedDependencies"][1] == {"name": "trt/model.onnx", "digest": {"sha256": "7" * 64}}
    assert build["externalParameters"]["plan"]["compute_capability"] == "8.9"
    assert predicate["runDetails"]["builder"]["version"] == {**TOOLS, "tensorrt_rtx": "1.7.1"}
    assert not has_plan_provenance(root, manifest, plan)
    add_plan_provenance(root, manifest, plan)
    assert has_plan_provenance(root, manifest, plan)
    load_package(root)  # it is no stranger there
    assert sorted(path.name for path in root.parent.iterdir()) == ["tiny"]


def schema() -> jsonschema_rs.Validator:
    folder = resources.files("cyclonedx.schema") / "_res"
    documents = {
        name: json.loads((folder / f"{name}.SNAPSHOT.schema.json").read_text("utf-8"))
        for name in ("bom-1.6", "spdx", "jsf-0.82")
    }
    known = [(f"http://cyclonedx.org/schema/{name}.SNAPSHOT.schema.json", one) for name, one in documents.items()]
    return jsonschema_rs.validator_for(documents["bom-1.6"], registry=jsonschema_rs.Registry(known))


def test_boms_fit_the_published_schema_and_carry_a_model_card(root: Path) -> None:
    manifest = read_manifest(root)
    rough = msgspec.structs.replace(manifest, source=msgspec.structs.replace(SOURCE, license="unknown"), quality=None)
    named = msgspec.structs.replace(manifest, source=msgspec.structs.replace(SOURCE, license="Llama 3 (own terms)"))
    bom = json.loads((root / BOM_FILE).read_text())
    plan = json.loads(plan_provenance(manifest, sidecar(root))["sm89.plan.cdx.json"])
    validator = schema()
    for document in (bom, plan, *(json.loads(with_provenance(one)[1][BOM_FILE]) for one in (rough, named))):
        validator.validate(document)
    assert bom["specVersion"] == "1.6"
    model = bom["metadata"]["component"]
    assert (model["type"], model["licenses"]) == ("machine-learning-model", [{"license": {"id": "Apache-2.0"}}])
    assert model["pedigree"]["ancestors"][0]["hashes"] == [{"alg": "SHA-256", "content": "5" * 64}]
    assert {one["name"] for one in model["components"]} == {"ort/model.onnx", "tokenizer.json"}
    card = model["modelCard"]
    assert card["modelParameters"]["modelArchitecture"] == "llama"
    assert {"name": "powertrain:precision:ort:mlp", "value": "int8 block 64"} in card["properties"]
    metrics = card["quantitativeAnalysis"]["performanceMetrics"]
    assert [one["value"] for one in metrics] == ["0.0125", "0.25", "0.975", "10.5", "10.25"]
    assert {one["purl"] for one in bom["components"]} == {"pkg:pypi/powertrain@0.1.0", "pkg:pypi/onnx@1.23.2"}
    assert {"name": "powertrain:plan:graph:trt/model.onnx", "value": "7" * 64} in plan["metadata"]["component"][
        "properties"
    ]


def test_the_same_package_says_the_same_bytes_whatever_it_is_called_and_whenever_it_was_built(root: Path) -> None:
    manifest = read_manifest(root)
    _, before = with_provenance(manifest)
    changed = {"name": "other", "served_names": ("a",), "build_seconds": 1.0, "created_unix": 7, "recipe_digest": "x"}
    _, after = with_provenance(msgspec.structs.replace(manifest, **changed))
    assert before == after == {name: (root / name).read_bytes() for name in (PROVENANCE_FILE, BOM_FILE)}
    text = b"".join(before.values()).decode()
    assert "someone" not in text
    assert "T0" not in text  # no time
    _, other = with_provenance(
        msgspec.structs.replace(manifest, source=msgspec.structs.replace(SOURCE, sha256="6" * 64))
    )
    assert all(other[name] != before[name] for name in before)


def test_a_recipe_is_told_without_names_and_paths() -> None:
    folder = Recipe(name="b", served_names=("c",), license="MIT", source=FolderSource(path="/secret"), block=64)
    assert RECIPE.settings() == folder.settings()
    template = Recipe(name="b", source=FolderSource(path="x"), chat_template="/home/someone/t.jinja").settings()
    assert "someone" not in json.dumps(template)
    assert template["chat_template"]


def test_an_older_manifest_is_still_read(root: Path) -> None:
    values = json.loads((root / "manifest.json").read_text())
    del values["recipe"], values["source"]["revision"]
    (root / "manifest.json").write_text(json.dumps(values))
    manifest: Manifest = load_package(root).manifest
    assert (manifest.recipe, manifest.source.revision) == ({}, "")


def test_a_snapshot_of_the_hub_tells_its_commit(tmp_path: Path) -> None:
    notes = tmp_path / ".cache/huggingface/download"
    notes.mkdir(parents=True)
    assert snapshot_commit(tmp_path) == ""
    (notes / "config.json.metadata").write_text(f"{COMMIT}\netag\n1.5\n")
    assert snapshot_commit(tmp_path) == COMMIT
    (notes / "model.safetensors.metadata").write_text(f"{'d' * 40}\netag\n1.5\n")
    assert snapshot_commit(tmp_path) == ""
