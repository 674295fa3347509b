"""What ONNX Runtime raises reaches the engine as the one error that it ends requests for, and the session goes on."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from runtime.errors import DeviceError, DeviceLost, DeviceOutOfMemory
from runtime.session.ort_run import run_bound, run_failure


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


NODE = (
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running MatMul node. Name:'m' Status Message: "
)
WHERE = " ; GPU=0 ; hostname=here ; file=/onnxruntime/core/providers/cuda/cuda_call.cc ; line=121 ; expr=cudaMemcpy();"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (f"{NODE}CUDA failure 700: an illegal memory access was encountered{WHERE}", DeviceLost),
        (f"{NODE}CUDA failure 719: unspecified launch failure{WHERE}", DeviceLost),
        (f"{NODE}CUDA failure 214: uncorrectable ECC error encountered{WHERE}", DeviceLost),
        (f"{NODE}CUDA failure 2: out of memory{WHERE}", DeviceOutOfMemory),
        (f"{NODE}CUDA failure 2: out of memory{WHERE} CUDA failure 700: an illegal memory access", DeviceLost),
        (f"{NODE}CUDA failure 1: invalid argument{WHERE}", DeviceError),
        (f"{NODE}CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED{WHERE}", DeviceOutOfMemory),
        (f"{NODE}CUBLAS failure 700: no such number of cuBLAS{WHERE}", DeviceError),
        (f"{NODE}bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 4096", DeviceOutOfMemory),
        (f"{NODE}Available memory of 12 is smaller than requested bytes of 4096", DeviceOutOfMemory),
        (f"{NODE}indices element out of data bounds", DeviceError),
    ],
)
def test_what_a_failure_means_is_read_from_its_text(text: str, kind: type[DeviceError]) -> None:
    error = run_failure(text)
    assert type(error) is kind
    assert str(error).startswith(f"ONNX Runtime failed: {text}")


def test_an_arena_at_its_limit_is_a_shortage_of_memory() -> None:
    """What ONNX Runtime really says on this machine when its arena may not grow."""
    graph = helper.make_graph(
        [helper.make_node("Expand", ["one", "shape"], ["many"]), helper.make_node("ReduceSum", ["many"], ["sum"])],
        "expand",
        [helper.make_tensor_value_info("shape", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array([1.0], np.float32), "one")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    model.ir_version = 10
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_output("sum", "cpu")
    binding.bind_cpu_input("shape", np.array([2**50]))
    with pytest.raises(DeviceOutOfMemory, match="buffer of size 4503599627370496"):
        run_bound(session, binding)
    binding.bind_cpu_input("shape", np.array([8]))
    run_bound(session, binding)
    assert float(binding.copy_outputs_to_cpu()[0].item()) == 8.0
