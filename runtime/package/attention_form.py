"""How a plan's attention knows what a token may see: the word for it in plans' sidecars and on the command line."""

from __future__ import annotations

from typing import Literal

AttentionForm = Literal["mask+lengths", "mask", "lengths"]
"""A mask over the whole slot, with how many of its rows are filled or without; or that number alone, with a diagonal
that ends there in the mask's place (a sliding window keeps its mask)."""

DEFAULT_ATTENTION: AttentionForm = "mask+lengths"
