"""Model package -> tokens. The only room that may import onnxruntime.

``loading`` turns a ``package`` into a ``session``; ``engine`` runs requests over it, choosing tokens by ``sampling``;
``text`` stands beside them and turns messages into tokens and tokens into text. Knows nothing of HTTP.
"""
