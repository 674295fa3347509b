"""What it takes to score prompts: how many log-probabilities are asked for, and that they are not too many.

They are all in memory at once, in the engine's events and in the answer. Knows no sampling and no shape of an answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.errors import RequestError

MAX_SCORES = 2**18
"""Log-probabilities of prompts in one answer: 131,072 tokens with one alternative each, or some 15 MB of JSON."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """``num_top`` alternatives beside each prompt token; ``num_scores`` log-probabilities in the whole answer."""

    num_top: int
    num_scores: int


def scoring_of(field: str, num_top: int, num_tokens: int) -> Scoring:
    """The scoring of ``num_tokens`` of prompts, as ``field`` asks for it. Raises RequestError beyond the limit."""
    num_scores = num_tokens * (1 + num_top)
    if num_scores > MAX_SCORES:
        message = (
            f"{field}: {num_tokens} prompt tokens over all choices with {num_top} alternatives each are {num_scores} "
            f"log-probabilities, the limit is {MAX_SCORES}; send fewer prompts, or ask for fewer alternatives"
        )
        raise RequestError(message, field)
    return Scoring(num_top, num_scores)
