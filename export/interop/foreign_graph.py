"""Somebody else's decoder graph -> one that a session here runs: checked, renamed and, where it can be, rewired.

A graph whose layers are GroupQueryAttention takes lengths in place of a mask, and logits of chosen tokens: then the
slots' session runs it, many rows at a time. Any other keeps its mask and a cache that grows. No node that computes is
changed and no weight is touched. Knows ONNX's containers; who wrote the graph is ``source_folder``'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, NodeProto, TensorProto, helper
from runtime.package import graph_io
from runtime.package.manifest import OPTIMUM_GRAPH, ORT_GRAPH, ModelShape

from export.errors import SourceError, UnsupportedError
from export.interop.source_folder import ATTENTION_MASK, POSITION_IDS
from export.source.hf.folder_file import inside

_DOMAINS = {"", "ai.onnx", "com.microsoft"}
_COMPILED = "EPContext"
_ATTENTION, _CONTRIBUTED = "GroupQueryAttention", "com.microsoft"
_LENGTHS = {5: graph_io.SEQLENS_K, 6: graph_io.TOTAL_SEQUENCE_LENGTH}
"""GroupQueryAttention's inputs, by place."""
_ROPE_TABLE = 7
_MAX_GRAPH_BYTES = 2**31 - 1
_MAX_DATA_FILES = 1024
_THEIRS = "theirs."
_PRODUCTS = {"MatMul", "MatMulNBits"}
_OWN = {graph_io.SEQLENS_K: TensorProto.INT32, graph_io.TOTAL_SEQUENCE_LENGTH: TensorProto.INT32,
        graph_io.LOGITS_INDICES: TensorProto.INT64}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ForeignGraph:
    """``kind`` is the manifest's word for the session; ``data_files`` lie beside the graph that was read.

    ``positions`` is the length of the graph's rope tables, None where none is stored.
    """

    model: onnx.ModelProto
    kind: str
    shape: ModelShape
    data_files: tuple[Path, ...]
    positions: int | None


def read_foreign_graph(path: Path, names: dict[str, str], sizes: dict[str, int]) -> ForeignGraph:
    """The graph at ``path`` under our names. ``names`` maps theirs to ours, a layer's with ``%d``; ``sizes`` are those
    of ``ModelShape`` that hold where the graph leaves a dimension open.

    Raises SourceError for a damaged file, UnsupportedError, with the name of what is at fault, for what nothing runs.
    """
    if not path.is_file():
        raise SourceError(f"{path.name} is missing in {path.parent}")
    if path.stat().st_size > _MAX_GRAPH_BYTES:
        raise SourceError(f"{path.name} is larger than a graph can be")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise SourceError(f"{path.name} is not an ONNX graph") from error
    _check_nodes(model)
    data_files = _data_files(model, path.parent)
    pasts = [value.name for value in model.graph.input if _matches(value.name, names, ".key")]
    num_layers = len(pasts)
    mapping = {theirs.replace("%d", str(i)): ours.replace("%d", str(i)) for theirs, ours in names.items() for i in
               (range(num_layers) if "%d" in theirs else (0,))}  # fmt: skip
    _rename(model.graph, mapping)
    shape = _shape(model.graph, num_layers, sizes)
    rewired = _rewired(model, num_layers)
    kind = OPTIMUM_GRAPH if rewired is None else ORT_GRAPH
    return ForeignGraph(rewired or model, kind, shape, data_files, _positions(model.graph))


def _matches(name: str, names: dict[str, str], kind: str) -> bool:
    """Whether ``name`` is some layer's past of that kind."""
    template = next((theirs for theirs, ours in names.items() if ours.startswith("past") and ours.endswith(kind)), "")
    before, layer, after = template.partition("%d")
    if not layer:
        return False
    return name.startswith(before) and name.endswith(after) and name[len(before) : len(name) - len(after)].isdecimal()


def _check_nodes(model: onnx.ModelProto) -> None:
    if model.functions:
        raise UnsupportedError(f"the graph calls its own function {model.functions[0].name!r}; operators alone run")
    for node in model.graph.node:
        if node.domain not in _DOMAINS:
            raise UnsupportedError(
                f"{node.op_type} of {node.domain!r} is a custom operator; ONNX's and com.microsoft's run"
            )
        if node.op_type == _COMPILED:
            raise UnsupportedError(f"{_COMPILED}: the graph was compiled for one provider; take the one before that")
        for attribute in node.attribute:
            if attribute.type in {AttributeProto.GRAPH, AttributeProto.GRAPHS}:
                raise UnsupportedError(
                    f"{node.op_type} {node.name!r} chooses what runs by what it computes, such as between two rope "
                    "tables by length; a cache that was filled by the one is wrong for the other"
                )


def _data_files(model: onnx.ModelProto, folder: Path) -> tuple[Path, ...]:
    """Every file that holds weights: plain files beside the graph."""
    names = {entry.value for tensor in _tensors(model) for entry in tensor.external_data if entry.key == "location"}
    if len(names) > _MAX_DATA_FILES:
        raise UnsupportedError(f"the weights lie in {len(names)} files; {_MAX_DATA_FILES} at most")
    files = []
    for name in sorted(names):
        path = inside(folder, name)
        if not path.is_file() or name.endswith(".onnx"):
            raise SourceError(f"{name} is missing, or no file of weights; the graph has weights in it")
        files.append(path)
    return tuple(files)


def _tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor that may name a file."""
    sparse = [*model.graph.sparse_initializer]
    yield from model.graph.initializer
    for attribute in (attribute for node in model.graph.node for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        sparse += [attribute.sparse_tensor, *attribute.sparse_tensors]
    for tensor in sparse:
        yield from (tensor.values, tensor.indices)


def _rename(graph: onnx.GraphProto, mapping: dict[str, str]) -> None:
    """Give every value its name in ``mapping``; what has one of our names without being meant gets another."""
    meant = set(mapping)
    ours = {*mapping.values(), *_OWN}
    used = {name for node in graph.node for name in (*node.input, *node.output)}
    full = mapping | {name: _THEIRS + name for name in used & ours - meant}
    for node in graph.node:
        node.input[:] = [full.get(name, name) for name in node.input]
        node.output[:] = [full.get(name, name) for name in node.output]
    for values in (graph.input, graph.output, graph.initializer, graph.value_info):
        for value in values:
            value.name = full.get(value.name, value.name)


def _shape(graph: onnx.GraphProto, num_layers: int, sizes: dict[str, int]) -> ModelShape:
    """Sizes off the graph's inputs and outputs. Raises UnsupportedError for inputs that no session feeds."""
    caches = graph_io.cache_names(num_layers)
    stored = {tensor.name for tensor in graph.initializer}
    inputs = {value.name: value for value in graph.input if value.name not in stored}
    fed = {graph_io.INPUT_IDS, ATTENTION_MASK, POSITION_IDS, *(past for past, _ in caches)}
    if strange := sorted(name.removeprefix(_THEIRS) for name in set(inputs) - fed):
        raise UnsupportedError(f"the graph wants inputs that nothing here feeds: {', '.join(strange[:8])}")
    outputs = {value.name: value for value in graph.output}
    wanted = {graph_io.LOGITS, *(present for _, present in caches)}
    lacking = sorted({*(past for past, _ in caches), graph_io.INPUT_IDS} - set(inputs)) + sorted(wanted - set(outputs))
    if not num_layers or lacking:
        missing = ", ".join(lacking[:8]) or "past_key_values.0.key"
        raise UnsupportedError(f"the graph is no decoder with a cache: it lacks {missing}")
    for name, value in [(past, inputs[past]) for past, _ in caches] + [(graph_io.LOGITS, outputs[graph_io.LOGITS])]:
        if value.type.tensor_type.elem_type != TensorProto.FLOAT:
            kinds = {number: word.lower() for word, number in TensorProto.DataType.items()}
            kind = kinds.get(value.type.tensor_type.elem_type, "no known type")
            raise UnsupportedError(f"{name} is in {kind}; a graph for the CPU has it in float32")
    cache = [dim.dim_value for dim in inputs[caches[0][0]].type.tensor_type.shape.dim]
    logits = [dim.dim_value for dim in outputs[graph_io.LOGITS].type.tensor_type.shape.dim]
    if len(cache) != 4 or len(logits) != 3:
        raise UnsupportedError("the graph's cache has not 4 dimensions, or its logits not 3")
    if logits[1]:
        raise UnsupportedError(
            "the graph computes the last token's logits alone, and a server needs those of any; GenAI's builder writes "
            "them with prune_lm_head=false, and a package that was converted is served itself"
        )
    stated = {"num_kv_heads": cache[1], "head_dim": cache[3], "vocab_size": logits[2]}
    known = {name: size or sizes.get(name, 0) for name, size in stated.items()}
    if unknown := [name for name, size in known.items() if not size]:
        raise UnsupportedError(f"neither the graph nor its configuration says its {', '.join(unknown)}")
    return ModelShape(num_layers=num_layers, **known)


def _positions(graph: onnx.GraphProto) -> int | None:
    """Rows of the shortest rope table that attention is given."""
    rows = {tensor.name: tensor.dims[0] for tensor in graph.initializer if tensor.dims}
    tables = [node.input[_ROPE_TABLE] for node in graph.node if _is_attention(node) and len(node.input) > _ROPE_TABLE]
    return min((rows[name] for name in tables if name in rows), default=None)


def _is_attention(node: NodeProto) -> bool:
    return node.op_type == _ATTENTION and node.domain == _CONTRIBUTED


def _rewired(model: onnx.ModelProto, num_layers: int) -> onnx.ModelProto | None:
    """A copy that takes lengths and chosen tokens; None where attention is not all GroupQueryAttention, or where the
    mask or positions are still read after that."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    attention = [node for node in graph.node if _is_attention(node) and len(node.input) > max(_LENGTHS)]
    if {node.input[3] for node in attention} != {graph_io.layer_cache_names(i)[0][0] for i in range(num_layers)}:
        return None
    if not any(graph_io.LOGITS in node.output for node in graph.node):
        return None
    for node in attention:
        for place, name in _LENGTHS.items():
            node.input[place] = name
    _choose_rows(graph)
    _drop_unread(graph)
    read = {name for node in graph.node for name in node.input}
    if read & {ATTENTION_MASK, POSITION_IDS}:
        return None
    kept = [value for value in graph.input if value.name not in {ATTENTION_MASK, POSITION_IDS}]
    dims: dict[str, list[str]] = {graph_io.SEQLENS_K: ["batch"], graph_io.LOGITS_INDICES: ["num_logits"]}
    own = [helper.make_tensor_value_info(name, kind, dims.get(name, [])) for name, kind in _OWN.items()]
    del graph.input[:]
    graph.input.extend([*kept, *own])
    return made


def _choose_rows(graph: onnx.GraphProto) -> None:
    """``logits`` [N, V] of the tokens in ``logits_indices``: chosen before the head's product where that ends the
    graph, else after it."""
    head = next(node for node in graph.node if graph_io.LOGITS in node.output)
    rows, chosen = _THEIRS + "rows", _THEIRS + "chosen_rows"
    if head.op_type in _PRODUCTS:
        source, head.input[0] = head.input[0], chosen
        place = list(graph.node).index(head)
    else:
        source = _THEIRS + "logits"
        head.output[:] = [source if name == graph_io.LOGITS else name for name in head.output]
        place, chosen = len(graph.node), graph_io.LOGITS
    added = [
        helper.make_node("Flatten", [source], [rows], name=_THEIRS + "flatten", axis=-1),
        helper.make_node("Gather", [rows, graph_io.LOGITS_INDICES], [chosen], name=_THEIRS + "gather", axis=0),
    ]
    nodes = list(graph.node)
    nodes[place:place] = added
    del graph.node[:]
    graph.node.extend(nodes)
    logits = next(value for value in graph.output if value.name == graph_io.LOGITS)
    del logits.type.tensor_type.shape.dim[0]
    logits.type.tensor_type.shape.dim[0].dim_param = "num_logits"
    keep = [value for value in graph.value_info if value.name not in {graph_io.LOGITS, source}]
    del graph.value_info[:]
    graph.value_info.extend(keep)


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Remove nodes and initializers that no output needs any more."""
    needed = {value.name for value in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed.update(node.input)
            kept.append(node)
    initializers = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:]
    graph.node.extend(reversed(kept))
    del graph.initializer[:]
    graph.initializer.extend(initializers)
