"""Sessions on ONNX Runtime's CPU provider, their cache and their memory. Knows no request and no GPU."""
