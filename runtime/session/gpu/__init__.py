"""Sessions with fixed slots in device memory, over ONNX Runtime (``ort/``) or TensorRT (``trt/``).

What both share stands here. Libraries of a GPU are imported only when one was chosen. Knows no request.
"""
