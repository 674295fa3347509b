"""A ``trt`` graph as TensorRT's parser understood it, and the proof that it understood what was meant.

The parser is known to read some attention graphs differently from ONNX, and to accept operators whose kernels it does
not have, without a warning. So the parsed network is walked: every cache is a network input updated in place at
``write_indices``, every attention sees what the wanted form says (``export.plan.attention``), nothing is a plugin.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import PlanError
from runtime.package import graph_io, selection_io
from runtime.package.attention_form import AttentionForm
from runtime.package.selection_io import DTYPES, input_shapes, output_shapes

from export.graph.trt.causal_masks import without_causal_masks
from export.graph.trt.slot_length import with_slot_rows
from export.plan.attention import attentions, check_attention, origin, set_lengths
from export.plan.library import Library

_SMALL_INPUTS = (graph_io.INPUT_IDS, graph_io.WRITE_INDICES, graph_io.LOGITS_INDICES)


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """What a walk over the network counted. ``cache_pairs`` are (past, present) names that share memory.

    ``cache_shape`` is (heads, capacity, head_dim); ``num_attention`` counts fused attentions.
    """

    num_layers: int
    num_attention: int
    num_dequantize: int
    cache_pairs: tuple[tuple[str, str], ...]
    cache_shape: tuple[int, int, int]
    cache_dtype: str


def parse_graph(
    library: Library,
    network: Any,  # noqa: ANN401 - TensorRT's objects
    logger: Any,  # noqa: ANN401
    path: Path,
    capacity: int,
    *,
    form: AttentionForm,
) -> None:
    """Parse an ONNX file with its external data into ``network``, for cache slots of ``capacity`` rows.

    What attention sees is said as ``form`` says. Raises PlanError with the reasons of the parser or the library.
    """
    parser = library.module.OnnxParser(network, logger)
    graph, unmasked = with_slot_rows(path, capacity), frozenset[str]()
    if form == "lengths":
        graph, unmasked = without_causal_masks(graph)
    if not parser.parse(graph, str(path)):
        first = " ".join(parser.get_error(0).desc().split()) if parser.num_errors else "no reason given"
        raise PlanError(
            f"{library.name} {library.version} cannot parse {path.name}: {first[:300]}; export the package again, "
            "and if that does not help, with another version of the library"
        )
    if form != "mask":
        set_lengths(library, network, unmasked)


def parse_head(library: Library, network: Any, logger: Any, path: Path) -> None:  # noqa: ANN401
    """Parse a selection head into ``network`` and compare its inputs and outputs with what a session binds.

    Raises PlanError with the parser's reasons or the first tensor that differs.
    """
    parser = library.module.OnnxParser(network, logger)
    if not parser.parse(path.read_bytes(), str(path)):
        first = " ".join(parser.get_error(0).desc().split()) if parser.num_errors else "no reason given"
        raise PlanError(
            f"{library.name} {library.version} cannot parse the selection head: {first[:300]}; export the package "
            "again, and if that does not help, with another version of the library"
        )
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    vocab_size = next((tensor.shape[1] for tensor in inputs if tensor.name == selection_io.LOGITS), 0)
    shapes = {**input_shapes(-1, vocab_size), **output_shapes(-1)}
    wanted = {name: (shape, DTYPES[name].name.upper().replace("FLOAT32", "FLOAT")) for name, shape in shapes.items()}
    found = {tensor.name: (tuple(tensor.shape), tensor.dtype.name) for tensor in (*inputs, *outputs)}
    odd = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
    if odd:
        raise PlanError(
            f"the selection head's {odd[0]!r} is {found.get(odd[0], 'missing')}, a session binds "
            f"{wanted.get(odd[0], 'no such tensor')}; export the package again"
        )


def check_network(library: Library, network: Any, form: AttentionForm) -> NetworkFacts:  # noqa: ANN401
    """Walk the network. Raises PlanError at the first layer that is not what the ``trt`` dialect means."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    makers = {layer.get_output(i).name: layer for layer in layers for i in range(layer.num_outputs)}
    inputs = {network.get_input(i).name: network.get_input(i) for i in range(network.num_inputs)}
    outputs = {network.get_output(i).name for i in range(network.num_outputs)}
    pairs, num_dequantize = [], 0
    for layer in layers:
        kind = layer.type.name
        if kind.startswith("PLUGIN"):
            raise PlanError(f"the graph needs a plugin for {layer.name!r}; export the package again")
        if kind == "KV_CACHE_UPDATE":
            pairs.append(_cache_pair(layer, makers, set(inputs), outputs))
        num_dequantize += kind == "DEQUANTIZE"
    found = attentions(library, network)
    for attention in found:
        check_attention(library, attention, form, makers)
    return _facts(
        num_layers=len(layers),
        num_attention=len(found),
        num_dequantize=num_dequantize,
        pairs=pairs,
        inputs=inputs,
        outputs=outputs,
    )


def _facts(
    *,
    num_layers: int,
    num_attention: int,
    num_dequantize: int,
    pairs: list[tuple[str, str]],
    inputs: dict[str, Any],
    outputs: set[str],
) -> NetworkFacts:
    pasts = [name for name in inputs if name not in _SMALL_INPUTS]
    if sorted(past for past, _ in pairs) != sorted(pasts) or outputs != {present for _, present in pairs} | {
        graph_io.LOGITS
    }:
        raise PlanError("the graph's caches are not all updated in place; export the package again")
    if missing := [name for name in _SMALL_INPUTS if name not in inputs]:
        raise PlanError(f"the graph has no input {missing[0]!r}; export the package again")
    shape = tuple(inputs[pasts[0]].shape)
    if num_attention and inputs[pasts[0]].dtype.name == "FLOAT":
        raise PlanError("TensorRT has no fused attention in float32; export with --precision fp16, bf16, int8 or int4")
    return NetworkFacts(
        num_layers=num_layers,
        num_attention=num_attention,
        num_dequantize=num_dequantize,
        cache_pairs=tuple(pairs),
        cache_shape=(shape[1], shape[2], shape[3]),
        cache_dtype=inputs[pasts[0]].dtype.name,
    )


def _cache_pair(layer: Any, makers: dict[str, Any], inputs: set[str], outputs: set[str]) -> tuple[str, str]:  # noqa: ANN401
    past, present = layer.get_input(0).name, layer.get_output(0).name
    if past not in inputs or present not in outputs:
        raise PlanError(f"cache update {layer.name!r} has no input and output of its own; export the package again")
    position = origin(layer.get_input(2), makers).name
    if position != graph_io.WRITE_INDICES:
        raise PlanError(f"cache update {layer.name!r} writes at {position!r}; export the package again")
    return past, present
