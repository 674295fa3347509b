"""A ``trt`` graph as TensorRT's parser understood it, and the proof that it understood what was meant.

The parser is known to read some attention graphs differently from ONNX, and to accept operators whose kernels it does
not have, without a warning. So the parsed network is walked: every cache is a network input updated in place at
``write_indices``, every attention has a mask of its own and no causal mask added, nothing is a plugin.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import PlanError
from runtime.package import graph_io

from export.graph.trt.slot_length import with_slot_rows
from export.plan.library import Library

_PASS_THROUGH = {"CAST", "IDENTITY", "SHUFFLE"}
_SMALL_INPUTS = (graph_io.INPUT_IDS, graph_io.WRITE_INDICES, graph_io.LOGITS_INDICES)


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """What a walk over the network counted. ``cache_pairs`` are (past, present) names that share memory.

    ``cache_shape`` is (heads, capacity, head_dim); ``num_attention`` counts fused attentions with their boolean masks.
    """

    num_layers: int
    num_attention: int
    num_dequantize: int
    cache_pairs: tuple[tuple[str, str], ...]
    cache_shape: tuple[int, int, int]
    cache_dtype: str


def parse_graph(library: Library, network: Any, logger: Any, path: Path, capacity: int) -> None:  # noqa: ANN401
    """Parse an ONNX file with its external data into ``network``, for cache slots of ``capacity`` rows.

    Raises PlanError with the parser's reasons.
    """
    parser = library.module.OnnxParser(network, logger)
    if not parser.parse(with_slot_rows(path, capacity), str(path)):
        first = " ".join(parser.get_error(0).desc().split()) if parser.num_errors else "no reason given"
        raise PlanError(
            f"{library.name} {library.version} cannot parse {path.name}: {first[:300]}; export the package again, "
            "and if that does not help, with another version of the library"
        )


def check_network(library: Library, network: Any) -> NetworkFacts:  # noqa: ANN401 - TensorRT's objects
    """Walk the network. Raises PlanError at the first layer that is not what the ``trt`` dialect means."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    makers = {layer.get_output(i).name: layer for layer in layers for i in range(layer.num_outputs)}
    inputs = {network.get_input(i).name: network.get_input(i) for i in range(network.num_inputs)}
    outputs = {network.get_output(i).name for i in range(network.num_outputs)}
    pairs, attentions, num_dequantize = [], [], 0
    for layer in layers:
        kind = layer.type.name
        if kind.startswith("PLUGIN"):
            raise PlanError(f"the graph needs a plugin for {layer.name!r}; export the package again")
        if kind == "KV_CACHE_UPDATE":
            pairs.append(_cache_pair(layer, makers, set(inputs), outputs))
        elif kind == "ATTENTION_INPUT":
            attentions.append(layer)
        elif kind == "ATTENTION_OUTPUT":
            _check_causal(library, layer)
        num_dequantize += kind == "DEQUANTIZE"
    for layer in attentions:
        _check_mask(layer)
    return _facts(
        num_layers=len(layers),
        num_attention=len(attentions),
        num_dequantize=num_dequantize,
        pairs=pairs,
        inputs=inputs,
        outputs=outputs,
    )


def allow_unfused_attention(library: Library, network: Any) -> None:  # noqa: ANN401 - TensorRT's objects
    """Let an attention be computed in parts where the library has no fused kernel for its shape, rather than fail.

    TensorRT for RTX 1.7.1 has them for up to some 20,000 rows of a cache slot, and takes them where it has them.
    """
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type.name == "ATTENTION_OUTPUT":
            layer.__class__ = library.module.IAttentionOutputLayer  # the network hands out base classes
            layer.attention.decomposable = True


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
    position = layer.get_input(2).name
    while position in makers and makers[position].type.name in _PASS_THROUGH:
        position = makers[position].get_input(0).name
    if position != graph_io.WRITE_INDICES:
        raise PlanError(f"cache update {layer.name!r} writes at {position!r}; export the package again")
    return past, present


def _check_mask(layer: Any) -> None:  # noqa: ANN401
    mask = layer.get_input(3) if layer.num_inputs > 3 else None
    if mask is None or mask.dtype.name != "BOOL":
        raise PlanError(f"attention {layer.name!r} lost its mask in the parser; use another version of the library")


def _check_causal(library: Library, layer: Any) -> None:  # noqa: ANN401
    layer.__class__ = library.module.IAttentionOutputLayer  # the network hands out base classes
    attention = layer.attention
    kind = attention.causal_kind.name if hasattr(attention, "causal_kind") else ("ANY" if attention.causal else "NONE")
    if kind != "NONE":
        raise PlanError(f"attention {layer.name!r} got a causal mask ({kind}) that the graph does not ask for")
