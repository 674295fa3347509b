"""Model package -> tokens. Knows onnxruntime, numpy and tokenizers; knows no HTTP, no onnx and no export."""
