"""Writes a checkpoint's ``ort`` graph into a folder and says what the manifest records about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from runtime.package.adapter_room import AdapterRoom
from runtime.package.manifest import ORT_GRAPH, GraphInfo

from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.precision import EXACT, PrecisionPlan
from export.checkpoint.precision_policy import ort_providers
from export.errors import UnsupportedError
from export.graph.attention_scale import with_unit_attention_scale
from export.graph.decoder import emit_decoder, emit_layer
from export.graph.kv_scales import KvScales
from export.graph.ort.dialect import OPSET, OrtDialect
from export.graph.writer import GRAPH_FILE, GraphWriter
from export.progress import Reporter

LAYER_INPUT = "stream"


def write_ort_graph(
    checkpoint: Checkpoint,
    plan: PrecisionPlan,
    max_model_len: int,
    folder: Path,
    reporter: Reporter,
    *,
    kv_scales: KvScales | None = None,
    room: AdapterRoom | None = None,
    is_scratch: bool = False,
) -> GraphInfo:
    """Write ``model.onnx`` and its data below ``folder``; with ``kv_scales`` its cache is int8, with ``room`` it takes
    adapters.

    The data has reached the disk when this returns, unless it ``is_scratch``.

    Raises ExportError; memory is one band of one matrix.
    """
    if plan.has_float_codes:
        raise UnsupportedError("ONNX Runtime has no kernels for fp8 and nvfp4 weights; choose --dialect trt, or int8")
    if plan.float_type == "float32":  # what it gains was measured on the CPU only
        checkpoint = with_unit_attention_scale(checkpoint)
    title = f"Writing the {ORT_GRAPH} graph"
    with reporter.stage(title, checkpoint.spec.num_layers + 1) as advance, GraphWriter(folder) as writer:
        dialect = OrtDialect(checkpoint.spec, writer, plan, max_model_len, kv_scales, room=room)
        emit_decoder(checkpoint, dialect, lambda: advance(1))
        writer.save(OPSET, is_scratch=is_scratch)
        return GraphInfo(
            path=f"{folder.name}/{GRAPH_FILE}",
            kv_dtype=plan.float_type if kv_scales is None else "int8",
            providers=ort_providers(plan),
            precision=dialect.precision(),
            weight_bytes=dialect.weight_bytes,
            num_nodes=writer.num_nodes,
        )


def write_layer_graph(checkpoint: Checkpoint, layer: int, max_model_len: int, folder: Path) -> str:
    """One layer of the float32 graph, alone, below ``folder``; returns its output's name.

    ``stream`` float32 [B, T, hidden] goes in, as ``emit_layer`` says; the layer's cache is as in the whole graph.
    """
    checkpoint = with_unit_attention_scale(checkpoint)
    shape = ("batch", "tokens", checkpoint.spec.hidden_size)
    with GraphWriter(folder) as writer:
        dialect = OrtDialect(checkpoint.spec, writer, EXACT, max_model_len)
        output = emit_layer(checkpoint, dialect, layer, writer.input(LAYER_INPUT, np.float32, shape))
        writer.output(output, np.float32, shape)
        writer.save(OPSET, is_scratch=True)
    return output
