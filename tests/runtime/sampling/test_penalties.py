"""Penalties over arrays that grow are those over sets that are sorted at each step, bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from runtime.sampling.logit_rules import LogitRules
from runtime.sampling.seen_tokens import SeenTokens
from tests.runtime.engine_driver import request

SIZE = 300
TOKENS = st.integers(0, SIZE - 1)


def by_the_rule(logits: np.ndarray, prompt: list[int], drawn: list[int], asked: dict[str, float]) -> None:
    """The rule, from scratch: sorted distinct tokens of prompt and answer, counts of the answer's."""
    penalty = np.float32(asked["repetition_penalty"])
    if penalty != 1.0:
        ids = np.array(sorted({*prompt, *drawn}), np.int64)
        seen = logits[ids]
        logits[ids] = np.where(seen > 0, seen / penalty, seen * penalty)
    if (asked["frequency_penalty"] or asked["presence_penalty"]) and drawn:
        ids = np.array([*dict.fromkeys(drawn)], np.int64)
        counts = np.array([drawn.count(token) for token in ids.tolist()], np.float32)
        logits[ids] -= asked["frequency_penalty"] * counts + np.float32(asked["presence_penalty"])


@given(
    prompt=st.lists(TOKENS, min_size=1, max_size=40),
    drawn=st.lists(TOKENS, max_size=90),
    asked=st.fixed_dictionaries(
        {
            "repetition_penalty": st.sampled_from([1.0, 1.1, 0.7]),
            "frequency_penalty": st.sampled_from([0.0, 0.3, -1.7]),
            "presence_penalty": st.sampled_from([0.0, 0.1]),
        }
    ),
    seed=st.integers(0, 99),
)
def test_equal_bits(prompt: list[int], drawn: list[int], asked: dict[str, Any], seed: int) -> None:
    rules = LogitRules(request("r", prompt, **asked))
    for token_id in drawn:
        rules.observe(token_id)
    logits = np.random.default_rng(seed).standard_normal(SIZE).astype(np.float32)
    expected = logits.copy()
    by_the_rule(expected, prompt, drawn, asked)
    rules.apply(logits)
    assert logits.tobytes() == expected.tobytes()


def test_a_token_takes_its_place_and_no_other_moves() -> None:
    seen = SeenTokens([7, 3, 7, 5])
    assert (seen.ids.tolist(), seen.counts.tolist()) == ([7, 3, 5], [0, 0, 0])
    before = seen.ids
    for token_id in (3, 9, 3):
        seen.draw(token_id)
    assert (seen.ids.tolist(), seen.counts.tolist()) == ([7, 3, 5, 9], [0, 2, 0, 1])
    assert np.shares_memory(before, seen.ids)  # nothing was made anew
    for token_id in range(100, 400):
        seen.draw(token_id)
    assert seen.ids.tolist() == [7, 3, 5, 9, *range(100, 400)]
    assert seen.counts.tolist() == [0, 2, 0, 1, *[1] * 300]
    assert len(seen) == 304
