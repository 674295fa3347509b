"""The ``trt`` graph of a package: which precision it gets, and its entry for the manifest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from runtime.package.graph_profiles import fixed_capacity
from runtime.package.manifest import GraphInfo
from runtime.package.plan_sidecar import TRT_GRAPH

from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.precision import PrecisionPlan
from export.graph.decoder import emit_decoder
from export.graph.trt.dialect import OPSET, TrtDialect
from export.graph.writer import GRAPH_FILE, GraphWriter
from export.progress import Reporter


def trt_plan(plan: PrecisionPlan) -> PrecisionPlan:
    """The plan with half-precision activations where weights are quantized: TensorRT has no fused float32 attention.

    A plan of plain float32 stays as it is; TensorRT compiles none of it, but ONNX Runtime's CPU provider runs it.
    """
    is_quantized = any(chosen.bits for chosen in (plan.default, *plan.overrides.values()))
    return replace(plan, float_type="float16") if is_quantized and plan.float_type == "float32" else plan


def write_trt_graph(
    checkpoint: Checkpoint, plan: PrecisionPlan, max_model_len: int, folder: Path, reporter: Reporter
) -> GraphInfo:
    """The ``trt`` graph of a checkpoint in ``folder``, and its entry for the manifest."""
    chosen = trt_plan(plan)
    title = f"Writing the {TRT_GRAPH} graph"
    with reporter.stage(title, checkpoint.spec.num_layers + 1) as advance, GraphWriter(folder) as writer:
        dialect = TrtDialect(checkpoint.spec, writer, chosen, fixed_capacity(max_model_len))
        emit_decoder(checkpoint, dialect, lambda: advance(1))
        writer.save(OPSET)
        return GraphInfo(
            path=f"{folder.name}/{GRAPH_FILE}",
            kv_dtype=chosen.float_type,
            providers=("tensorrt", "tensorrt-rtx"),
            precision=dialect.precision(),
            weight_bytes=dialect.weight_bytes,
            num_nodes=writer.num_nodes,
        )
