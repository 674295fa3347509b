"""An ``ort`` graph with the inputs that other programs give: a mask in place of lengths; the last token's logits out.

``input_ids`` int64 [B, T] and ``attention_mask`` int64 [B, P + T], of ones with zeros after a shorter row's end, go in
beside the caches; ``logits`` float32 [B, 1, V] are those of each row's last token. The nodes added here compute from
that what ``runtime.package.graph_io`` names; not one of the graph's own changes, so its tokens do not either. Knows
ONNX's containers; external data is referred to as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from runtime.package import graph_io

from export.errors import UnsupportedError

ATTENTION_MASK = "attention_mask"

_OURS = (graph_io.SEQLENS_K, graph_io.TOTAL_SEQUENCE_LENGTH, graph_io.LOGITS_INDICES)
_PREFIX = "masked."
_ROWS = _PREFIX + "logits_rows"
_END = np.iinfo(np.int64).max


def masked_graph(model: onnx.ModelProto, vocab_size: int, num_layers: int) -> onnx.ModelProto:
    """A copy of ``model`` with those inputs and outputs. Raises UnsupportedError for other graphs than ``ort``'s."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    names = [value.name for value in graph.input]
    pasts = [past for past, _ in graph_io.cache_names(num_layers)]
    if set(names) != {graph_io.INPUT_IDS, *_OURS, *pasts}:
        other = ", ".join(sorted(set(names) ^ {graph_io.INPUT_IDS, *_OURS, *pasts}))
        raise UnsupportedError(f"the graph's inputs are not those of powertrain's ort graphs: {other}")
    kept = [value for value in graph.input if value.name not in _OURS]
    mask = helper.make_tensor_value_info(ATTENTION_MASK, TensorProto.INT64, ["batch", "total_tokens"])
    outputs = [value for value in graph.output if value.name != graph_io.LOGITS]
    logits = helper.make_tensor_value_info(graph_io.LOGITS, TensorProto.FLOAT, ["batch", 1, vocab_size])
    nodes = [_renamed(node) for node in graph.node]
    constants: dict[str, npt.NDArray[np.int64] | npt.NDArray[np.int32]] = {
        "one": np.array([1], np.int64),
        "one_int32": np.array(1, np.int32),
        "first": np.array(0, np.int64),
        "second": np.array(1, np.int64),
        "end": np.array([_END], np.int64),
        "logits_shape": np.array([-1, 1, vocab_size], np.int64),
    }
    _replace(graph.input, [kept[0], mask, *kept[1:]])
    _replace(graph.output, [logits, *outputs])
    _replace(graph.node, [*_lengths(), *_last_tokens(), *nodes, _node("Reshape", [_ROWS, "logits_shape"], "logits")])
    graph.initializer.extend(numpy_helper.from_array(value, _PREFIX + name) for name, value in constants.items())
    return made


def _lengths() -> list[NodeProto]:
    """``seqlens_k`` [B], the ones in each row less 1, and ``total_sequence_length`` [], the mask's width."""
    return [
        _node("ReduceSum", [ATTENTION_MASK, "one"], "lengths", keepdims=0),
        _node("Cast", ["lengths"], "lengths_int32", to=TensorProto.INT32),
        _node("Sub", ["lengths_int32", "one_int32"], graph_io.SEQLENS_K),
        _node("Shape", [ATTENTION_MASK], "mask_shape"),
        _node("Gather", ["mask_shape", "second"], "mask_width"),
        _node("Cast", ["mask_width"], graph_io.TOTAL_SEQUENCE_LENGTH, to=TensorProto.INT32),
    ]


def _last_tokens() -> list[NodeProto]:
    """``logits_indices`` [B]: row * T + the ones among the row's last T of the mask - 1."""
    return [
        _node("Shape", [graph_io.INPUT_IDS], "ids_shape"),
        _node("Gather", ["ids_shape", "first"], "batch"),
        _node("Gather", ["ids_shape", "second"], "tokens"),
        _node("Shape", [graph_io.INPUT_IDS], "tokens_list", start=1, end=2),
        _node("Neg", ["tokens_list"], "from_behind"),
        _node("Slice", [ATTENTION_MASK, "from_behind", "end", "one"], "mask_of_tokens"),
        _node("ReduceSum", ["mask_of_tokens", "one"], "present", keepdims=0),
        _node("Range", ["first", "batch", "second"], "rows"),
        _node("Mul", ["rows", "tokens"], "row_starts"),
        _node("Add", ["row_starts", "present"], "row_ends"),
        _node("Sub", ["row_ends", "one"], graph_io.LOGITS_INDICES),
    ]


def _node(op: str, inputs: Sequence[str], output: str, **attributes: int) -> NodeProto:
    """A node among values of this module, which all but the graph's own have a prefix."""
    own = {graph_io.INPUT_IDS, ATTENTION_MASK, _ROWS, graph_io.LOGITS, *_OURS}
    names = [name if name in own else _PREFIX + name for name in (*inputs, output)]
    return helper.make_node(op, names[:-1], names[-1:], name=_PREFIX + op + "." + output, **dict[str, Any](attributes))


def _renamed(node: NodeProto) -> NodeProto:
    """The node, its ``logits`` [N, V] under another name."""
    changed = NodeProto()
    changed.CopyFrom(node)
    for values in (changed.input, changed.output):
        values[:] = [_ROWS if name == graph_io.LOGITS else name for name in values]
    return changed


def _replace(field: object, values: Sequence[object]) -> None:
    """Give a repeated field of messages other ones."""
    del field[:]  # type: ignore[attr-defined]
    field.extend(values)  # type: ignore[attr-defined]
