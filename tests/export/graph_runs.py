"""Runs a package's ``ort`` graph with plain arrays, the way tests need it: a cache that the test can look into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.precision import PrecisionPlan
from export.checkpoint.spec import DecoderSpec
from export.graph.decoder import emit_decoder
from export.graph.ort.dialect import OPSET, OrtDialect
from export.graph.writer import GRAPH_FILE, GraphWriter
from runtime.package import dtypes, graph_io

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]


def write_graph(checkpoint: Checkpoint, plan: PrecisionPlan, folder: Path, max_model_len: int = 64) -> Path:
    """The graph's path in ``folder``."""
    with GraphWriter(folder) as writer:
        emit_decoder(checkpoint, OrtDialect(checkpoint.spec, writer, plan, max_model_len))
        writer.save(OPSET)
    return folder / GRAPH_FILE


class GraphRun:
    """A session and a cache of ``rows`` sequences with room for ``capacity`` tokens each."""

    def __init__(self, graph: Path, spec: DecoderSpec, rows: int = 1, capacity: int = 64) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        shape = (rows, spec.num_kv_heads, capacity, spec.head_dim)
        caches = graph_io.cache_names(spec.num_layers)
        dtype = dtypes.BY_ORT_NAME[self.session.get_inputs()[-1].type].numpy
        self.cache: dict[str, npt.NDArray[Any]] = {past: np.zeros(shape, dtype) for past, _ in caches}
        self.present = {present: past for past, present in caches}

    def __call__(self, ids: I64, starts: list[int], indices: list[int] | None = None) -> F32:
        """Logits [N, V] for ids [B, T] that continue at ``starts``; every token's unless ``indices`` are given."""
        rows, tokens = ids.shape
        lengths = np.array(starts, np.int32) + tokens
        wanted = np.arange(rows * tokens) if indices is None else np.array(indices)
        feeds = self.cache | {
            graph_io.INPUT_IDS: ids,
            graph_io.SEQLENS_K: (lengths - 1).astype(np.int32),
            graph_io.TOTAL_SEQUENCE_LENGTH: np.array(lengths.max(), np.int32),
            graph_io.LOGITS_INDICES: wanted.astype(np.int64),
        }
        logits, *presents = self.session.run([graph_io.LOGITS, *self.present], feeds)
        self.cache = dict(zip(self.present.values(), presents, strict=True))
        return np.asarray(logits)
