"""What ONNX Runtime raises reaches the engine as the one error that it ends requests for, and the session goes on."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from runtime.errors import DeviceError
from runtime.session.ort_run import run_bound


def test_a_failing_run_is_a_device_error_and_the_next_one_runs() -> None:
    table = numpy_helper.from_array(np.array([[1.0], [2.0]], np.float32), "table")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "id"], ["row"])],
        "gather",
        [helper.make_tensor_value_info("id", TensorProto.INT64, [])],
        [helper.make_tensor_value_info("row", TensorProto.FLOAT, [1])],
        [table],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    model.ir_version = 10
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_output("row", "cpu")
    binding.bind_cpu_input("id", np.array(7))
    with pytest.raises(DeviceError, match=r"ONNX Runtime failed: .*out of data bounds"):
        run_bound(session, binding)
    binding.bind_cpu_input("id", np.array(1))
    run_bound(session, binding)
    assert binding.copy_outputs_to_cpu()[0].tolist() == [2.0]
