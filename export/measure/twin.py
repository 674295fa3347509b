"""Twin: the float32 form of a checkpoint, run over windows of text; what everything is measured against.

``WholeTwin`` is one graph in memory, the fast way. ``layerwise`` holds the other one, for machines too small for it.
Knows graphs through ``runtime.package.graph_io`` and the ``ort`` dialect's way to name a matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
import onnxruntime
from onnx import NodeProto, TensorProto, helper
from runtime.package import graph_io
from runtime.package.manifest import ModelShape

from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.precision import EXACT
from export.graph.ort.graph import write_ort_graph
from export.graph.writer import GRAPH_FILE
from export.measure.quality import F32, I64
from export.measure.sessions import BulkRunner, open_in_bulk
from export.progress import SilentReporter

_INSTRUMENTED_FILE = "instrumented.onnx"
_HEAD_FILE = "head.onnx"
_WEIGHT_SUFFIX = ".weight"
_HEAD_WEIGHTS = frozenset({"embedding.weight", "head.weight"})


class Twin(Protocol):
    """A checkpoint's float32 values over windows of ids, each int64 [T], that start from an empty cache."""

    def begin(self, windows: Sequence[I64]) -> None:
        """Work ahead for ``logits`` of ``windows``, on a thread of its own, where that takes no further memory."""
        ...

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
    """The Twin that is one graph, written below ``folder`` when it is first asked.

    No window goes through the layers twice: what the head reads of it, float32 [T, hidden], is kept, and the head is
    a session of its own. The layers' session stays open until logits are asked for.
    """

    def __init__(self, checkpoint: Checkpoint, max_model_len: int, shape: ModelShape, folder: Path) -> None:
        self._checkpoint, self._max_model_len, self._shape, self._folder = checkpoint, max_model_len, shape, folder
        self._hidden: dict[bytes, F32] = {}  # by a window's ids
        self._layers: _Layers | None = None
        self._ahead: Future[None] | None = None

    def begin(self, windows: Sequence[I64]) -> None:
        """See ``Twin``: the layers run."""
        pool = ThreadPoolExecutor(1, "twin")
        self._ahead = pool.submit(self._run_layers, windows)
        pool.shutdown(wait=False)

    def logits(self, windows: Sequence[I64]) -> Iterator[F32]:
        """See ``Twin``. All layers run before this returns: a caller's own graph finds their memory free."""
        if self._ahead is not None:
            self._ahead.result()
        self._run_layers(windows)
        self._ahead = self._layers = None
        head, head_input = head_graph(self._graph())
        session, hidden = open_in_bulk(head), [self._hidden[window.tobytes()] for window in windows]
        return (np.asarray(session.run([graph_io.LOGITS], {head_input: rows})[0], np.float32) for rows in hidden)

    def caches(self, windows: Sequence[I64]) -> Iterator[tuple[int, F32, F32]]:
        """See ``Twin``."""
        runner = _PathRunner(self._graph(), self._shape)
        for window in windows:
            for layer, (keys, values) in enumerate(runner.cache(window)):
                yield layer, keys, values

    def projection_inputs(self, windows: Sequence[I64]) -> Iterator[tuple[str, F32]]:
        """See ``Twin``."""
        layers = self._open_layers()
        names = layers.projections
        for window in windows:
            *found, self._hidden[window.tobytes()] = layers.values([*names.values(), layers.output], window)
            for name, rows in zip(names, found, strict=True):
                yield name, rows.reshape(-1, rows.shape[-1])

    def _run_layers(self, windows: Sequence[I64]) -> None:
        """What the head reads of each window that has not gone through the layers yet."""
        for window in windows:
            if (ids := window.tobytes()) not in self._hidden:
                layers = self._open_layers()
                (self._hidden[ids],) = layers.values([layers.output], window)

    def _open_layers(self) -> _Layers:
        if self._layers is None:
            self._layers = _Layers(self._graph(), self._shape)
        return self._layers

    def _graph(self) -> Path:
        if not self._folder.is_dir():
            silent = SilentReporter()
            write_ort_graph(self._checkpoint, EXACT, self._max_model_len, self._folder, silent, is_scratch=True)
        return self._folder / GRAPH_FILE


class _PathRunner(BulkRunner):
    """Computes what is asked for and nothing beside it: not the head, which is a fifth of a small model."""

    def values(self, names: Sequence[str], window: I64) -> list[F32]:
        """See ``GraphRunner``."""
        options = onnxruntime.RunOptions()
        options.only_execute_path_to_fetches = True
        return [np.asarray(value, np.float32) for value in self._session.run(list(names), self._feeds(window), options)]


class _Layers(_PathRunner):
    """The layers of a whole ``graph``: names of each projection's input, and of what the head reads."""

    def __init__(self, graph: Path, shape: ModelShape) -> None:
        path, self.projections = instrumented(graph)
        _, self.output = head_graph(graph)
        super().__init__(path, shape)


def instrumented(graph: Path) -> tuple[Path, dict[str, str]]:
    """(``graph`` again, beside itself, with what projections and head read as outputs; projection -> its input's
    name)."""
    model = onnx.load(str(graph), load_external_data=False)
    inputs = {
        node.input[1].removesuffix(_WEIGHT_SUFFIX): node.input[0]
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1].endswith(_WEIGHT_SUFFIX)
    }
    known = {value.name for value in (*model.graph.input, *model.graph.output)}
    heads = {node.input[0] for node in model.graph.node if _is_head(node)}
    watched = sorted({*inputs.values(), *heads} - known)
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in watched)
    path = graph.with_name(_INSTRUMENTED_FILE)  # beside the weights that it refers to
    path.write_bytes(model.SerializeToString())
    return path, inputs


def head_graph(graph: Path) -> tuple[Path, str]:
    """(The head of a whole float32 ``graph``, beside it: what follows the final norm; the name of its input)."""
    model = onnx.load(str(graph), load_external_data=False)
    first = next(place for place, node in enumerate(model.graph.node) if _is_head(node))
    nodes = list(model.graph.node)[first:]
    read = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    rows = helper.make_tensor_value_info(nodes[0].input[0], TensorProto.FLOAT, None)
    outputs = [value for value in model.graph.output if value.name == graph_io.LOGITS]
    head = helper.make_graph(nodes, "head", [rows], outputs, kept)
    path = graph.with_name(_HEAD_FILE)
    path.write_bytes(
        helper.make_model(head, opset_imports=model.opset_import, ir_version=model.ir_version).SerializeToString()
    )
    return path, nodes[0].input[0]


def _is_head(node: NodeProto) -> bool:
    return node.op_type == "Gemm" and node.input[1] in _HEAD_WEIGHTS
