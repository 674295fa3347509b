"""In-toto statements with SLSA v1 provenance: what files are there, and of what, by what and how they were made.

``in-toto-attestation`` owns the form. A statement that lies in a package says nothing of time or place; the signed one,
which lies beside the manifest, says when the build ran.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement
from runtime.package.manifest import PREDICATE_TYPE, AdapterInfo, Manifest
from runtime.package.plan_sidecar import PlanSidecar

PACKAGE_BUILD = "urn:powertrain:build:package:1"
PLAN_BUILD = "urn:powertrain:build:plan:1"
BUILDER = "urn:powertrain:builder"


def package_predicate(manifest: Manifest, *, with_times: bool = False) -> dict[str, Any]:
    """SLSA provenance of a package as JSON values; ``with_times`` adds when the build began and ended."""
    predicate = provenance_pb2.Provenance()
    build = predicate.build_definition
    build.build_type = PACKAGE_BUILD
    build.external_parameters.update({"recipe": _plain(manifest.recipe)})
    graphs = {name: {"cache": graph.kv_dtype, "precision": graph.precision} for name, graph in manifest.graphs.items()}
    build.internal_parameters.update({"maxModelLen": manifest.max_model_len, "graphs": graphs})
    build.resolved_dependencies.extend(_sources(manifest))
    run = predicate.run_details
    run.builder.id = BUILDER
    run.builder.version.update(manifest.tools)
    if manifest.quality is not None:
        run.byproducts.append(ResourceDescriptor(name="quality", annotations=_plain(manifest.quality)).pb)
    if with_times:
        end = datetime.fromtimestamp(manifest.created_unix, UTC)
        run.metadata.finished_on.CopyFrom(_timestamp(end))
        began = datetime.fromtimestamp(max(0, manifest.created_unix - int(manifest.build_seconds)), UTC)
        run.metadata.started_on.CopyFrom(_timestamp(began))
    return dict(MessageToDict(predicate))


def package_statement(manifest: Manifest, files: Mapping[str, str]) -> bytes:
    """The statement in a package about its other ``files`` (path -> sha256)."""
    return statement(files, package_predicate(manifest))


def plan_statement(manifest: Manifest, sidecar: PlanSidecar) -> bytes:
    """The statement about a plan, of the package's graph and weights."""
    predicate = provenance_pb2.Provenance()
    build = predicate.build_definition
    build.build_type = PLAN_BUILD
    key = _plain(sidecar.key)
    graphs = key.pop("graph_sha256")
    build.external_parameters.update({"plan": key})
    build.internal_parameters.update({"precision": dict(sidecar.precision), "recipe": _plain(manifest.recipe)})
    build.resolved_dependencies.extend(_sources(manifest))
    build.resolved_dependencies.extend(ResourceDescriptor(name=n, digest={"sha256": d}).pb for n, d in graphs.items())
    run = predicate.run_details
    run.builder.id = BUILDER
    run.builder.version.update(dict(manifest.tools) | {sidecar.key.library: sidecar.key.library_version})
    if manifest.quality is not None:
        run.byproducts.append(ResourceDescriptor(name="quality", annotations=_plain(manifest.quality)).pb)
    name = f"trt/{sidecar.key.target}.plan"
    return statement({name: sidecar.plan_sha256}, dict(MessageToDict(predicate)))


def statement(subjects: Mapping[str, str], predicate: dict[str, Any], kind: str = PREDICATE_TYPE) -> bytes:
    """An in-toto statement as JSON: ``subjects`` (name -> sha256) have this predicate, which is SLSA provenance or of
    another ``kind``."""
    described = [ResourceDescriptor(name=name, digest={"sha256": subjects[name]}).pb for name in sorted(subjects)]
    made = Statement(described, kind, predicate)
    made.validate()
    return document(_with_whole_numbers(MessageToDict(made.pb)))


def _with_whole_numbers(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """8192 where protobuf, whose free values know one kind of number, says 8192.0."""
    if isinstance(value, dict):
        return {key: _with_whole_numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_whole_numbers(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def document(values: object) -> bytes:
    """JSON for people and machines, the same bytes for the same values."""
    return msgspec.json.format(msgspec.json.encode(values, order="sorted"), indent=2) + b"\n"


def _sources(manifest: Manifest) -> list[Any]:  # messages of protobuf, whose classes have no types
    """The checkpoint, and the adapter that was merged into it."""
    source = manifest.source
    annotations = {"kind": source.kind, "license": source.license}
    if source.revision:
        annotations["revision"] = source.revision
    found = [ResourceDescriptor(name=source.name, digest={"sha256": source.sha256}, annotations=annotations).pb]
    if isinstance(adapter := source.adapter, AdapterInfo):
        kind = {"kind": "adapter"}
        found.append(ResourceDescriptor(name=adapter.name, digest={"sha256": adapter.sha256}, annotations=kind).pb)
    return found


def _timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def _plain(value: object) -> dict[str, Any]:
    """A struct or mapping as what a protobuf ``Struct`` takes: lists for tuples, names for enumerations."""
    return dict(msgspec.json.decode(msgspec.json.encode(value)))
