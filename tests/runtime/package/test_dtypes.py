"""The table of element types against the libraries whose names it gives."""

from __future__ import annotations

import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from runtime.package.dtypes import BY_NAME, BY_ORT_NAME, FLOATS


def test_names_and_numbers_are_those_of_onnx_and_onnxruntime() -> None:
    numbers = {name: kind.onnx_number for name, kind in BY_NAME.items()}
    inputs = [helper.make_tensor_value_info(name, number, [1]) for name, number in numbers.items()]
    constant = helper.make_node("Constant", [], ["one"], value_float=1.0)
    outputs = [helper.make_tensor_value_info("one", TensorProto.FLOAT, [])]
    model = helper.make_model(helper.make_graph([constant], "types", inputs, outputs), ir_version=11)
    model.opset_import[0].version = 23
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert {node.name: node.type for node in session.get_inputs()} == {n: kind.ort_name for n, kind in BY_NAME.items()}
    for kind in BY_NAME.values():
        assert helper.tensor_dtype_to_np_dtype(kind.onnx_number) == kind.numpy
    assert len(BY_ORT_NAME) == len(BY_NAME) == 11


def test_names_are_those_of_tensorrt() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    for kind in BY_NAME.values():
        assert getattr(trt.DataType, kind.tensorrt_name).name == kind.tensorrt_name
        assert (
            getattr(trt.DataType, kind.tensorrt_name).itemsize * (2 if kind.name in {"int4", "float4_e2m1fn"} else 1)
            == kind.itemsize
        )


def test_sizes_are_those_that_caches_are_measured_in() -> None:
    assert [(kind.name, kind.itemsize, kind.tensorrt_name) for kind in FLOATS] == [
        ("float32", 4, "FLOAT"),
        ("float16", 2, "HALF"),
        ("bfloat16", 2, "BF16"),
    ]
