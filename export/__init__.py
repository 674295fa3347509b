"""Checkpoint -> model package. The one room that may import onnx, gguf and safetensors.

Data flows ``source`` -> ``checkpoint`` -> ``graph`` -> ``package``; ``measure`` decides what a package may give up, and
``plan`` compiles what it holds. Knows nothing of serving and nothing of HTTP.
"""
