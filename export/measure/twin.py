"""Twin: the float32 form of a checkpoint, run over windows of text; what everything is measured against.

``WholeTwin`` is one graph in memory, the fast way. ``layerwise`` holds the other one, for machines too small for it.
Knows graphs through ``runtime.package.graph_io`` and the ``ort`` dialect's way to name a matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import onnx
from onnx import TensorProto, helper
from runtime.package.manifest import ModelShape

from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.precision import EXACT
from export.graph.ort.graph import write_ort_graph
from export.graph.writer import GRAPH_FILE
from export.measure.quality import F32, I64, GraphRunner
from export.progress import SilentReporter

_INSTRUMENTED_FILE = "instrumented.onnx"
_WEIGHT_SUFFIX = ".weight"


class Twin(Protocol):
    """A checkpoint's float32 values over windows of ids, each int64 [T], that start from an empty cache."""

    def logits(self, windows: Sequence[I64]) -> Iterator[F32]:
        """Each window's logits, float32 [T, V], in order."""
        ...

    def caches(self, windows: Sequence[I64]) -> Iterator[tuple[int, F32, F32]]:
        """(layer, keys after rope, values), float32 [H, T, D], for every layer of every window, in any order."""
        ...

    def projection_inputs(self, windows: Sequence[I64]) -> Iterator[tuple[str, F32]]:
        """(projection such as ``layers.0.qkv``, its inputs float32 [T, K]), for every one and window, in any order."""
        ...


class WholeTwin:
    """The Twin that is one graph, written below ``folder`` when it is first asked."""

    def __init__(self, checkpoint: Checkpoint, max_model_len: int, shape: ModelShape, folder: Path) -> None:
        self._checkpoint, self._max_model_len, self._shape, self._folder = checkpoint, max_model_len, shape, folder

    def logits(self, windows: Sequence[I64]) -> Iterator[F32]:
        """See ``Twin``."""
        runner = GraphRunner(self._graph(), self._shape)
        return (runner.logits(window) for window in windows)

    def caches(self, windows: Sequence[I64]) -> Iterator[tuple[int, F32, F32]]:
        """See ``Twin``."""
        runner = GraphRunner(self._graph(), self._shape)
        for window in windows:
            for layer, (keys, values) in enumerate(runner.cache(window)):
                yield layer, keys, values

    def projection_inputs(self, windows: Sequence[I64]) -> Iterator[tuple[str, F32]]:
        """See ``Twin``."""
        graph, inputs = instrumented(self._graph())
        runner = GraphRunner(graph, self._shape)
        for window in windows:
            for name, rows in zip(inputs, runner.values(list(inputs.values()), window), strict=True):
                yield name, rows.reshape(-1, rows.shape[-1])

    def _graph(self) -> Path:
        if not self._folder.is_dir():
            write_ort_graph(self._checkpoint, EXACT, self._max_model_len, self._folder, SilentReporter())
        return self._folder / GRAPH_FILE


def instrumented(graph: Path) -> tuple[Path, dict[str, str]]:
    """(``graph`` again, beside itself, with its projections' inputs as outputs; projection -> its input's name)."""
    model = onnx.load(str(graph), load_external_data=False)
    inputs = {
        node.input[1].removesuffix(_WEIGHT_SUFFIX): node.input[0]
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1].endswith(_WEIGHT_SUFFIX)
    }
    known = {value.name for value in (*model.graph.input, *model.graph.output)}
    watched = sorted(set(inputs.values()) - known)
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in watched)
    path = graph.with_name(_INSTRUMENTED_FILE)  # beside the weights that it refers to
    path.write_bytes(model.SerializeToString())
    return path, inputs
