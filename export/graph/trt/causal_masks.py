"""The mask of ordinary attention in a ``trt`` graph, and a graph without it, for who says the same in other words.

What a sliding window hides cannot be said by a length and a diagonal, so such masks stay. Knows no TensorRT.
"""

from __future__ import annotations

import onnx

CAUSAL_MASK = "mask.causal"
"""Name of the mask that lets a token see every row up to its own."""


def without_causal_masks(graph: bytes) -> tuple[bytes, frozenset[str]]:
    """A serialized graph in which no ``Attention`` has the causal mask, and the names of those that had it.

    Nodes that only made the mask stay and make what nobody reads, which TensorRT drops.
    """
    model = onnx.load_model_from_string(graph)
    bare = [node for node in model.graph.node if node.op_type == "Attention" and node.input[3:4] == [CAUSAL_MASK]]
    for node in bare:
        del node.input[3]
    serialized: bytes = model.SerializeToString()
    return serialized, frozenset(node.name for node in bare)
