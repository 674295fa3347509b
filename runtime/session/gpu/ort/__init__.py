"""Runs graphs with ONNX Runtime's GPU providers, below ``static_session``. Knows no scheduling and no TensorRT API."""
