"""The decoder for TensorRT, in standard ONNX. Knows no package, no TensorRT and no target."""
