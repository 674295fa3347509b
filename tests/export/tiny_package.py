"""A package of a random decoder, whole enough for plans, backends and the doctor: graphs and a manifest, no text."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from export.checkpoint.precision_policy import trt_plan
from export.checkpoint.spec import DecoderSpec
from export.graph.trt.graph import write_trt_graph
from export.measure.golden import GoldenMaker
from export.package.workspace import write_head
from export.progress import SilentReporter
from runtime.package.manifest import (
    SCHEMA_VERSION,
    GraphInfo,
    Manifest,
    Package,
    SourceInfo,
    load_package,
    write_manifest,
)
from runtime.package.package_file import file_info
from tests.export.random_checkpoint import ARCHITECTURES, CAPACITY, RandomCheckpoint, model_shape, plan, write_ort
from tests.export.tiny_models import tiny_tokenizer_json

SPEC = ARCHITECTURES["llama"]


def write_package(
    root: Path,
    precision: str = "fp16",
    spec: DecoderSpec = SPEC,
    *,
    seed: int = 0,
    with_trt: bool = True,
    max_model_len: int = CAPACITY,
) -> Package:
    """``ort`` in float32, ``trt`` in ``precision`` of the weights with ``seed``; golden rows of those with seed 0."""
    write_ort(spec, root / "ort")
    graphs = {"ort": GraphInfo("ort/model.onnx", "float32", ("cpu",), {}, 1000, 10)}
    if with_trt:
        checkpoint = RandomCheckpoint(spec, seed)
        graphs["trt"] = write_trt_graph(checkpoint, plan(precision), max_model_len, root / "trt", SilentReporter())
    stored = trt_plan(plan(precision if with_trt else "fp32"))
    maker = GoldenMaker(spec, max_model_len, tiny_tokenizer_json(spec.vocab_size), available_bytes=2**30)
    golden = maker.write(RandomCheckpoint(spec), stored, root, root / "scratch", SilentReporter())
    head = write_head(root, spec.vocab_size)
    names = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=root.name,
        served_names=(root.name,),
        source=SourceInfo("random", "random", "0" * 64, "none"),
        architecture=spec.architecture,
        spec=asdict(spec),
        shape=model_shape(spec),
        max_model_len=max_model_len,
        stop_token_ids=(0,),
        special_tokens={},
        graphs=graphs,
        quality=None,
        golden=golden,
        selection=head,
        recipe_digest="0" * 64,
        files={name: file_info(root / name) for name in names},
        tools={},
        build_seconds=0.0,
        created_unix=0,
    )
    write_manifest(root, manifest)
    return load_package(root)
