"""ONNX Runtime's contributed operators that the dialect uses, with the order of their inputs.

From https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md, each up to the last input used here;
a test compares them with the schemas of the installed library. Knows no decoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from export.graph.dialect import Value
from export.graph.writer import Attribute, GraphWriter

DOMAIN = "com.microsoft"

INPUTS = {
    "GatherBlockQuantized": ("data", "indices", "scales"),
    "GroupQueryAttention": (
        "query",
        "key",
        "value",
        "past_key",
        "past_value",
        "seqlens_k",
        "total_sequence_length",
        "cos_cache",
        "sin_cache",
        "position_ids",
        "attention_bias",
        "head_sink",
        "k_scale",
        "v_scale",
    ),
    "MatMulIntegerToFloat": ("A", "B", "a_scale", "b_scale", "a_zero_point", "b_zero_point", "bias"),
    "MatMulNBits": ("A", "B", "scales", "zero_points", "g_idx", "bias"),
    "QuickGelu": ("X",),
    "SkipSimplifiedLayerNormalization": ("input", "skip", "gamma"),
}
"""Operator -> its inputs in order."""


def ordered_inputs(op: str, inputs: Mapping[str, str]) -> list[str]:
    """The values of ``inputs``, which are by name, in the operator's order; "" where one before the last is absent.

    Raises KeyError for a name that the operator does not have.
    """
    place = {name: index for index, name in enumerate(INPUTS[op])}
    ordered = [""] * (1 + max(place[name] for name in inputs))
    for name, value in inputs.items():
        ordered[place[name]] = value
    return ordered


def contributed(
    writer: GraphWriter, op: str, inputs: Mapping[str, str], outputs: str | Sequence[str], **attributes: Attribute
) -> Value:
    """A node of ONNX Runtime's own, its inputs by name."""
    return writer.node(op, ordered_inputs(op, inputs), outputs, DOMAIN, **attributes)
