"""A CycloneDX 1.6 bill of materials with a model card: the model, its weights, its files and the tools that wrote it.

``cyclonedx-python-lib`` owns the form of everything but the model card, which it has no classes for: that part is added
to its JSON, and tests hold the whole to the schema that the library brings. No clock and no random number is asked.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import msgspec
from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType, Pedigree
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from runtime.package.manifest import AdapterInfo, Manifest, Quality
from runtime.package.package_file import FileInfo
from runtime.package.plan_sidecar import PlanSidecar

from export.provenance.statement import document

_ORIGIN = uuid.UUID("6f2a6d0e-2b0f-5a57-9a0e-2d3c5f0b7c11")
"""The name space of our serial numbers."""
_UNKNOWN = "unknown"


def package_bom(manifest: Manifest, files: dict[str, FileInfo]) -> bytes:
    """The BOM of a package with ``files``, those that describe its provenance left out."""
    model = _model(manifest, "package")
    model.components.update(_file(name, info.sha256) for name, info in files.items())
    return _written(manifest, model, manifest.tools)


def plan_bom(manifest: Manifest, sidecar: PlanSidecar) -> bytes:
    """The BOM of a TensorRT plan: the package's model, compiled by a library for a target."""
    key = sidecar.key
    model = _model(manifest, f"plan {key.target}")
    model.components.add(_file(f"trt/{key.target}.plan", sidecar.plan_sha256))
    model.properties.update(
        Property(name=f"powertrain:plan:{name}", value=str(value))
        for name, value in msgspec.to_builtins(key).items()
        if name != "graph_sha256"
    )
    model.properties.update(
        Property(name=f"powertrain:plan:graph:{name}", value=digest) for name, digest in key.graph_sha256.items()
    )
    return _written(manifest, model, {**manifest.tools, key.library: key.library_version})


def _model(manifest: Manifest, what: str) -> Component:
    source = manifest.source
    weights = Component(
        name=source.name,
        version=source.revision or None,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="weights",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=source.sha256)],
        licenses=_licenses(source.license),
    )
    ancestors = [weights]
    if isinstance(adapter := source.adapter, AdapterInfo):
        ancestors.append(
            Component(
                name=adapter.name,
                type=ComponentType.MACHINE_LEARNING_MODEL,
                bom_ref="adapter",
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=adapter.sha256)],
            )
        )
    return Component(
        name=source.name,
        version=source.revision or source.sha256[:12],
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="model",
        description=f"{what} of {manifest.architecture}",
        licenses=_licenses(source.license),
        pedigree=Pedigree(ancestors=ancestors),
    )


def _licenses(text: str) -> list[License]:
    return [] if text == _UNKNOWN else [LicenseFactory().make_from_string(text)]


def _file(name: str, sha256: str) -> Component:
    return Component(
        name=name,
        type=ComponentType.FILE,
        bom_ref=f"file:{name}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)],
    )


def _written(manifest: Manifest, model: Component, tools: dict[str, str]) -> bytes:
    bom = Bom(
        components=[
            Component(
                name=name,
                version=version,
                type=ComponentType.LIBRARY,
                bom_ref=f"tool:{name}",
                purl=PackageURL("pypi", name=name.replace("_", "-"), version=version),
            )
            for name, version in tools.items()
        ],
        serial_number=_ORIGIN,
    )
    bom.metadata.component = model
    bom.metadata.timestamp = datetime.fromtimestamp(0, UTC)
    bom.register_dependency(model, list(bom.components))
    values: dict[str, Any] = msgspec.json.decode(JsonV1Dot6(bom).output_as_string())
    del values["metadata"]["timestamp"]  # the library always has one
    values["metadata"]["component"]["modelCard"] = _model_card(manifest)
    del values["serialNumber"]
    values["serialNumber"] = f"urn:uuid:{uuid.uuid5(_ORIGIN, document(values).decode())}"
    return document(values)


def _model_card(manifest: Manifest) -> dict[str, Any]:
    card: dict[str, Any] = {
        "modelParameters": {
            "task": "text-generation",
            "architectureFamily": "transformer",
            "modelArchitecture": manifest.architecture,
            "inputs": [{"format": "text"}],
            "outputs": [{"format": "text"}],
        },
        "properties": [
            {"name": f"powertrain:precision:{graph}:{group}", "value": form}
            for graph, info in manifest.graphs.items()
            for group, form in info.precision.items()
        ],
    }
    if manifest.quality is not None:
        card["quantitativeAnalysis"] = {"performanceMetrics": _metrics(manifest.quality)}
    return card


def _metrics(quality: Quality) -> list[dict[str, str]]:
    measured = {
        "mean KL divergence from float32, nats per token": quality.mean_kl,
        "99th percentile of the same": quality.p99_kl,
        "share of tokens with the same most likely successor": quality.top1_agreement,
        "perplexity": quality.perplexity,
        "perplexity in float32": quality.reference_perplexity,
    }
    text = f"{quality.num_tokens} tokens of {quality.text}"
    return [{"type": name, "value": f"{value:.6g}", "slice": text} for name, value in measured.items()]
