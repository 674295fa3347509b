"""A package's ``trt`` graph -> TensorRT plans beside it, one per target, with sealed sidecars.

The only place that may import TensorRT's builders. Knows no checkpoint.
"""
