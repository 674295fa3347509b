"""Runs TensorRT plans, below ``static_session``. Knows no scheduling and no ONNX Runtime."""
