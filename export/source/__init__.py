"""What a person typed as MODEL -> an open checkpoint and its provenance.

Owns recipes, fetching and the readers of foreign formats (``gguf/``, ``hf/``). Knows nothing of graphs or packages.
"""
