"""Which special tokens end a turn besides the one called ``eos``. Knows texts and ids only."""

from __future__ import annotations

from collections.abc import Mapping

END_OF_TURN_TEXTS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<end_of_turn>",
    "<|end|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|end_of_role|>",
)


def end_of_turn_ids(template: str | None, special_tokens: Mapping[str, int]) -> list[int]:
    """Ids of the known end-of-turn tokens that are special in this vocabulary and written by its chat template."""
    if template is None:
        return []
    return [special_tokens[text] for text in END_OF_TURN_TEXTS if text in special_tokens and text in template]
