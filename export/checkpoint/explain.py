"""What a checkpoint is and what it will cost, computed from its spec: no weights are read, nothing is built."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from runtime.package import dtypes

from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.lazy_tensor import BAND_BYTES
from export.checkpoint.precision import PrecisionPlan, WeightFormat, planned_name
from export.checkpoint.precision_policy import NAMED, plan_from_name, trt_plan
from export.checkpoint.quantized_tensor import stored_formats
from export.checkpoint.spec import DecoderSpec, weight_shapes

BASE_BYTES = 250_000_000
"""Python, NumPy, onnx and the node list, measured on the default model."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Bytes of one precision: of the graph's data on disk, of the cache per token, and of memory while building."""

    graph_bytes: int
    kv_bytes_per_token: int
    build_bytes: int


def estimate(spec: DecoderSpec, plan: PrecisionPlan, max_model_len: int) -> Costs:
    """Costs of ``spec`` stored by ``plan``. A build without the quality report peaks at ``build_bytes``."""
    float_bytes = dtypes.BY_NAME[plan.float_type].itemsize
    total, largest_float = 0, 0
    for name, shape in weight_shapes(spec).items():
        size = math.prod(shape)
        if len(shape) != 2:
            total += size * float_bytes
            continue
        chosen = plan.format_of(planned_name(name), shape[1])
        total += chosen.num_bytes(shape, float_bytes)
        if name != "embedding" and (chosen.bits == 0 or chosen.has_integer_inputs):
            largest_float = max(largest_float, size)
    total += sum(max_model_len * rope.dim * float_bytes for rope in spec.ropes)
    kv = 2 * spec.num_layers * spec.kv_size * float_bytes
    transposed = largest_float * 4 * 3  # a fused projection is up to three times one matrix, held once as float32
    return Costs(total, kv, BASE_BYTES + 8 * BAND_BYTES + transposed)


def trt_graph_bytes(spec: DecoderSpec, plan: PrecisionPlan, max_model_len: int) -> int:
    """Bytes of the ``trt`` graph's data: its embedding is never quantized, a tied head may be beside it."""
    chosen = trt_plan(plan)
    size = estimate(spec, chosen, max_model_len).graph_bytes
    if not chosen.format_of("embedding", spec.hidden_size).bits:
        return size
    return size + spec.vocab_size * spec.hidden_size * dtypes.BY_NAME[chosen.float_type].itemsize


def explain(checkpoint: Checkpoint, max_model_len: int) -> dict[str, dict[str, str]]:
    """Sections of (label, text) for a person: the spec, and one line per precision."""
    spec = checkpoint.spec
    shapes = weight_shapes(spec)
    parameters = sum(math.prod(shape) for shape in shapes.values())
    windows = sorted({layer.window for layer in spec.layers if layer.window})
    switches = {
        "norm": spec.norm_placement + (f", q and k per {spec.qk_norm}" if spec.qk_norm != "none" else ""),
        "activation": spec.activation,
        "biases": ", ".join(name for name in ("qkv_bias", "output_bias", "mlp_bias") if getattr(spec, name)) or "none",
        "rope": "; ".join(
            f"theta {rope.theta:g} over {rope.dim}" + (f", {rope.scaling.kind}" if rope.scaling else "")
            for rope in spec.ropes
        ),
        "windows": ", ".join(map(str, windows)) or "none",
        "head": "tied to the embedding" if spec.tied_head else "its own",
    }
    model = {
        "architecture": spec.architecture,
        "parameters": f"{parameters:,} in {len(shapes)} tensors",
        "layers": f"{spec.num_layers}, hidden {spec.hidden_size}, MLP {spec.intermediate_size}",
        "heads": f"{spec.num_heads} query, {spec.num_kv_heads} key and value, of {spec.head_dim}",
        "vocabulary": f"{spec.vocab_size:,}",
        "context": f"{spec.max_positions:,} tokens; exported for {max_model_len:,}",
    }
    return {
        "model": model,
        "switches": switches,
        "precisions": _precision_lines(spec, stored_formats(checkpoint), max_model_len),
    }


def packages_graph_bytes(spec: DecoderSpec, plan: PrecisionPlan, max_model_len: int, dialects: Collection[str]) -> int:
    """Bytes of all graphs' data in a package of ``plan`` with these ``dialects``."""
    ort = estimate(spec, plan, max_model_len).graph_bytes if "ort" in dialects else 0
    return ort + (trt_graph_bytes(spec, plan, max_model_len) if "trt" in dialects else 0)


def _precision_lines(spec: DecoderSpec, kept: Mapping[str, WeightFormat], max_model_len: int) -> dict[str, str]:
    lines = {}
    for name in NAMED:
        plan = plan_from_name(name).keeping(kept)
        costs = estimate(spec, plan, max_model_len)
        graph_bytes, whose = costs.graph_bytes, ""
        if plan.has_float_codes:
            graph_bytes, whose = trt_graph_bytes(spec, plan, max_model_len), "; for TensorRT alone"
        lines[name] = (
            f"{graph_bytes / 2**20:,.0f} MiB, cache {costs.kv_bytes_per_token / 2**10:,.1f} KiB per token "
            f"({costs.kv_bytes_per_token * max_model_len / 2**20:,.0f} MiB per full sequence), "
            f"about {costs.build_bytes / 2**20:,.0f} MiB of memory to write{whose}"
        )
    return lines
