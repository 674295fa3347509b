"""Logits [T, V] of a prompt's tokens -> log-probability and rank of the token that follows each.

One row at a time, like drawing (docs/architecture.md). Knows no sequence, no chunk and no text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextvars import Context

import numpy as np

from runtime.events import PromptTokenLogprobs
from runtime.sampling.sampler import token_logprobs
from runtime.session.session import FloatArray


def prompt_scores(logits: FloatArray, following: Sequence[int], num_top: int) -> list[PromptTokenLogprobs] | None:
    """The score of ``following`` [T] given ``logits`` [T, V], each with the ``num_top`` likeliest tokens beside it.

    None if a row holds NaN, or nothing finite above -inf. The logits stay as they are.
    """
    quiet = Context()
    quiet.run(np.seterr, all="ignore")
    return quiet.run(_scores, logits, following, num_top)


def _scores(logits: FloatArray, following: Sequence[int], num_top: int) -> list[PromptTokenLogprobs] | None:
    found = []
    for row, token_id in zip(logits, following, strict=True):
        if not math.isfinite(row[row.argmax()]):  # argmax finds a NaN first
            return None
        rank = 1 + int(np.count_nonzero(row > row[token_id]))
        found.append(PromptTokenLogprobs(token_logprobs(row, token_id, num_top), rank))
    return found
