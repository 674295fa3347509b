"""A package -> a folder that ONNX Runtime GenAI or Triton reads; a folder with somebody else's graph -> a package.

Weights are copied, never converted. Knows no checkpoint and no quantization.
"""
