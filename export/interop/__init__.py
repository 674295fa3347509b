"""A package -> a folder that another program reads: ONNX Runtime GenAI's.

Weights are copied, never converted. Knows no checkpoint and no quantization.
"""
