"""Token ids -> logits: the seam to whatever runs the graph, and what every session shares.

Sessions for the processor are in ``cpu/``, for GPUs in ``gpu/``. Knows no request, no sampling and no text.
"""
