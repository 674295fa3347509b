"""Inputs of contributed operators by name: the order is the installed ONNX Runtime's own."""

from __future__ import annotations

import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

from export.graph.ort.operators import DOMAIN, INPUTS, ordered_inputs


def test_the_order_is_onnx_runtime_s() -> None:
    schemas = {
        schema.name: tuple(value.name for value in schema.inputs)
        for schema in get_all_operator_schema()
        if schema.domain == DOMAIN and schema.name in INPUTS
    }
    assert {op: schemas[op][: len(names)] for op, names in INPUTS.items()} == INPUTS


def test_absent_inputs_are_empty_and_none_trails() -> None:
    given = {"bias": "b", "A": "x", "B": "codes", "scales": "s"}
    assert ordered_inputs("MatMulNBits", given) == ["x", "codes", "s", "", "", "b"]
    assert ordered_inputs("MatMulNBits", {"A": "x", "B": "codes", "scales": "s"}) == ["x", "codes", "s"]


def test_a_name_that_the_operator_lacks_is_refused() -> None:
    with pytest.raises(KeyError, match="sink"):
        ordered_inputs("GroupQueryAttention", {"query": "q", "sink": "s"})
