"""The decoder for ONNX Runtime, in its contrib operators. Knows no package and measures nothing."""
