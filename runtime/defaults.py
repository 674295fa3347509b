"""What every room takes unless told otherwise, where two of them must mean the same number. Numbers only."""

from __future__ import annotations

DEFAULT_SLOTS = 16
"""Choices that a server generates at once, and that a plan for a GPU is built for."""

IDLE_PREFILL_CHUNK_TOKENS = 256
"""Prompt tokens that the engine computes in one call while nobody decodes. Attention computes a chunk's scores for
every token before its end, masked or not, so one long chunk costs more than two; and a graph may need scratch memory
in proportion to it."""
