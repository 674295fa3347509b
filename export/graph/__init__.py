"""A checkpoint and a precision plan -> an ONNX graph: one decoder, spelled by one dialect per runtime.

What both dialects share stands here, each dialect in its folder. Knows no source and no package.
"""
