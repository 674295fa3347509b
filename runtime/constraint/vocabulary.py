"""A model's tokens as a constraint sees them. Values only: knows no tokenizer library and no grammar."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """``token_bytes`` is one entry per id of the model's logits [V]; empty where an id has no token.

    ``control_ids``: control token's name -> id. No text ever becomes one of them; only a Literal's name does.
    ``end_ids``: the model's own end tokens, at least one; where a text may end, all of them are in the mask.
    ``encode``: text -> token ids in which no control token is ever found. Used to write forced text as the model's
    own tokenizer would; may be called from any thread. None: the longest token first.
    """

    token_bytes: tuple[bytes, ...]
    control_ids: Mapping[str, int]
    end_ids: tuple[int, ...]
    encode: Callable[[str], list[int]] | None
