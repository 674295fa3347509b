"""The one form of a model that everything below works on: a spec, tensors by canonical name, texts.

Owns how weights are read band by band, quantized and counted. Knows no file format and no graph.
"""
