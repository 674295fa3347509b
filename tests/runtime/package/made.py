"""Packages and plans of nonsense whose manifests and sidecars are right: for every check that reads no graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from runtime.package.manifest import GraphInfo, Manifest, ModelShape, SourceInfo, write_manifest
from runtime.package.package_file import file_info
from runtime.package.plan_sidecar import SCHEMA_VERSION, PlanKey, PlanSidecar


def make_package(root: Path, **changes: Any) -> Path:
    """A package at ``root`` whose manifest says ``changes``."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "ort").mkdir(exist_ok=True)
    (root / "tokenizer.json").write_text("{}")
    (root / "ort" / "model.onnx").write_bytes(b"graph")
    files = {name: file_info(root / name) for name in ("tokenizer.json", "ort/model.onnx")}
    fields: dict[str, Any] = {
        "schema_version": 1,
        "name": "tiny",
        "served_names": ("tiny",),
        "source": SourceInfo(kind="gguf", name="tiny.gguf", sha256="0" * 64, license="Apache-2.0"),
        "architecture": "llama",
        "spec": {},
        "shape": ModelShape(num_layers=1, num_kv_heads=1, head_dim=8, vocab_size=16),
        "max_model_len": 32,
        "stop_token_ids": (2,),
        "special_tokens": {},
        "graphs": {"ort": GraphInfo("ort/model.onnx", "float32", ("cpu",), {}, 1, 1)},
        "quality": None,
        "recipe_digest": "",
        "files": files,
        "tools": {},
        "build_seconds": 0.0,
        "created_unix": 0,
    }
    fields.update(changes)
    write_manifest(root, Manifest(**fields))
    return root


def plan_key(**changes: Any) -> PlanKey:
    """What was asked of a plan of four slots for an RTX 4090, but for ``changes``."""
    key = PlanKey(
        library="tensorrt_rtx",
        library_version="1.7.1",
        target="sm89",
        compute_capability="8.9",
        hardware_compatibility="none",
        graph_sha256={},
        max_slots=4,
        max_model_len=64,
        prefill_tokens=32,
        max_logits=16,
        optimization_level=3,
        workspace_bytes=0,
        attention="mask",
    )
    return msgspec.structs.replace(key, **changes)


def plan_sidecar(key: PlanKey, **changes: Any) -> PlanSidecar:
    """What came of it, not sealed: a plan of four bytes without a head, but for ``changes``."""
    sidecar = PlanSidecar(
        schema_version=SCHEMA_VERSION,
        key=key,
        precision={},
        capacity=key.max_model_len,
        plan_bytes=4,
        decoder_bytes=4,
        selection_bytes=0,
        scratch_bytes=0,
        plan_sha256="9" * 64,
        driver="",
        build_seconds=0.0,
        peak_memory_bytes=1,
        created_unix=0,
    )
    return msgspec.structs.replace(sidecar, **changes)
