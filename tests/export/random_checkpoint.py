"""Decoders with random weights: every switch of a spec, small enough to run and compile in a second."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from export.checkpoint.checkpoint import TextFiles
from export.checkpoint.lazy_tensor import F32, LazyTensor
from export.checkpoint.precision import PrecisionPlan, WeightFormat
from export.checkpoint.precision_policy import FOR_TENSORRT, plan_from_name
from export.checkpoint.spec import DecoderSpec, LayerSpec, RopeScaling, RopeSpec, weight_shapes
from export.graph.decoder import emit_decoder
from export.graph.ort.dialect import OPSET as ORT_OPSET
from export.graph.ort.dialect import OrtDialect
from export.graph.trt.dialect import OPSET as TRT_OPSET
from export.graph.trt.dialect import TrtDialect
from export.graph.writer import GRAPH_FILE, GraphWriter
from runtime.package.manifest import ModelShape

CAPACITY = 64

_BASE = DecoderSpec(
    architecture="llama",
    num_layers=2,
    hidden_size=64,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=128,
    vocab_size=97,
    max_positions=256,
    norm_eps=1e-5,
    tied_head=True,
    layers=(LayerSpec(), LayerSpec()),
    ropes=(RopeSpec(10000.0, 16),),
)

ARCHITECTURES = {
    "llama": _BASE,
    "llama3": replace(
        _BASE, tied_head=False, ropes=(RopeSpec(5e5, 16, RopeScaling("llama3", 8.0, original_max_positions=32)),)
    ),
    "mistral": replace(_BASE, tied_head=False, layers=(LayerSpec(window=7), LayerSpec(window=7))),
    "qwen2": replace(_BASE, qkv_bias=True, num_kv_heads=1),
    "qwen3": replace(_BASE, qk_norm="head", head_dim=32, ropes=(RopeSpec(1e6, 32),)),
    "phi3": replace(
        _BASE, head_dim=32, ropes=(RopeSpec(10000.0, 16),), tied_head=False, mlp_bias=True, output_bias=True
    ),
    "olmo2": replace(_BASE, qk_norm="full", norm_placement="post", tied_head=False),
    "gemma2": replace(
        _BASE,
        norm_placement="sandwich",
        activation="gelu_tanh",
        attention_softcap=5.0,
        logits_softcap=3.0,
        attention_scale=0.3,
        embedding_multiplier=8.0,
        layers=(LayerSpec(window=5), LayerSpec()),
    ),
    "gemma3": replace(
        _BASE,
        norm_placement="sandwich",
        activation="gelu_tanh",
        qk_norm="head",
        layers=(LayerSpec(window=5, rope=0), LayerSpec(rope=1)),
        ropes=(RopeSpec(10000.0, 16), RopeSpec(1e6, 16, RopeScaling("linear", 8.0))),
    ),
    "granite": replace(
        _BASE, residual_multiplier=0.22, logits_multiplier=0.25, embedding_multiplier=12.0, activation="gelu"
    ),
    "smollm3": replace(_BASE, layers=(LayerSpec(), LayerSpec(rope=None))),
}
"""One spec per family of decoders, each with the switches that set it apart."""

WIDE = replace(_BASE, hidden_size=512, num_heads=8, num_kv_heads=4, head_dim=64, intermediate_size=2048, vocab_size=512)
WIDE = replace(WIDE, ropes=(RopeSpec(10000.0, 64),))
"""Weights heavy enough that their packing shows in an engine's size."""


def lazy_from_array(name: str, array: F32) -> LazyTensor:
    """An array in memory as a LazyTensor."""
    return LazyTensor(name, array.shape, lambda start, stop: array[start:stop])


@dataclass(frozen=True)
class RandomCheckpoint:
    """Weights drawn from a fixed seed, under the canonical names."""

    spec: DecoderSpec
    seed: int = 0

    def tensor(self, name: str) -> LazyTensor:
        names = sorted(weight_shapes(self.spec))
        rng = np.random.default_rng([self.seed, names.index(name)])
        shape = weight_shapes(self.spec)[name]
        values = rng.standard_normal(shape, np.float32)
        if len(shape) == 1:
            values = values * np.float32(0.1) + np.float32(0.0 if name.endswith("_bias") else 1.0)
        else:
            values *= np.float32(shape[1] ** -0.5 if name != "embedding" else 0.5)
        return lazy_from_array(name, values)

    def text_files(self) -> TextFiles:
        raise NotImplementedError("random weights have no tokenizer")


def plan(precision: str, block: int = 32) -> PrecisionPlan:
    """``fp32``, ``fp16``, ``bf16``, or ``int8``, ``int4``, ``fp8`` and ``nvfp4`` with float16 around them."""
    floats: dict[str, Any] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
    if precision in FOR_TENSORRT:
        return plan_from_name(precision)
    if precision in floats:
        return PrecisionPlan(WeightFormat(), floats[precision])
    return PrecisionPlan(WeightFormat(int(precision.removeprefix("int")), block), "float16")


def write_trt(
    spec: DecoderSpec, folder: Path, precision: str | PrecisionPlan = "fp32", max_model_len: int = CAPACITY
) -> Path:
    """The ``trt`` graph of a random checkpoint; returns its path."""
    chosen = plan(precision) if isinstance(precision, str) else precision
    with GraphWriter(folder) as writer:
        emit_decoder(RandomCheckpoint(spec), TrtDialect(spec, writer, chosen, max_model_len))
        writer.save(TRT_OPSET)
    return folder / GRAPH_FILE


def write_ort(spec: DecoderSpec, folder: Path, precision: PrecisionPlan | None = None) -> Path:
    """The ``ort`` graph of the same checkpoint, float32 unless a plan is given."""
    with GraphWriter(folder) as writer:
        emit_decoder(RandomCheckpoint(spec), OrtDialect(spec, writer, precision or plan("fp32"), CAPACITY))
        writer.save(ORT_OPSET)
    return folder / GRAPH_FILE


def model_shape(spec: DecoderSpec) -> ModelShape:
    return ModelShape(
        num_layers=spec.num_layers,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        vocab_size=spec.vocab_size,
    )
