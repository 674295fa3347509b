"""Writes a checkpoint's ``trt`` graph into a folder and says what the manifest records about it."""

from __future__ import annotations

from pathlib import Path

from runtime.package.manifest import GraphInfo
from runtime.package.plan_sidecar import TRT_GRAPH

from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.precision import PrecisionPlan
from export.checkpoint.precision_policy import trt_plan
from export.graph.decoder import emit_decoder
from export.graph.trt.dialect import OPSET, TrtDialect
from export.graph.writer import GRAPH_FILE, GraphWriter
from export.progress import Reporter


def write_trt_graph(
    checkpoint: Checkpoint, plan: PrecisionPlan, max_model_len: int, folder: Path, reporter: Reporter
) -> GraphInfo:
    """Write ``model.onnx`` and its data below ``folder``, in the precision that ``trt_plan`` makes of ``plan``."""
    chosen = trt_plan(plan)
    title = f"Writing the {TRT_GRAPH} graph"
    with reporter.stage(title, checkpoint.spec.num_layers + 1) as advance, GraphWriter(folder) as writer:
        dialect = TrtDialect(checkpoint.spec, writer, chosen, max_model_len)
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
