"""Checkpoint -> model package. The only room that may import onnx, gguf, safetensors and TensorRT's builders."""
