"""Sampling under a constraint's mask: what may come, with which share, and which log-probabilities are told."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.sampling.allowed_tokens import Allowed, EndTokens, few_allowed, hide_others
from runtime.sampling.sampler import LOGPROB_FLOOR, UNUSABLE, NoToken, Sampled, SamplerState, sample
from tests.runtime.engine_driver import request
from tests.runtime.sampling.sample_rows import row
from tests.runtime.scripted_constraint import packed

FEW_IDS, MANY_IDS = {3, 64, 65, 4999}, set(range(1, 5000, 2))
"""Of a vocabulary of 5,000 tokens: what is gathered, and what is left after the others are hidden."""


def only(logits: np.ndarray, ids: set[int], may_end: bool = False, **sampling: Any) -> Sampled | NoToken | None:
    """The token of one row under a mask."""
    state = SamplerState(request("r", [0], **sampling), 0)
    return sample(logits[None].copy(), [state], [Allowed(packed(ids, len(logits)), may_end)])[0]


def test_the_ids_of_a_few_are_found_and_bits_beyond_the_vocabulary_are_no_tokens() -> None:
    mask = np.zeros(157, np.uint32)
    mask[0], mask[2], mask[156] = 1 << 31 | 1, 1 << 7, 1 << 7 | 1 << 8 | 1 << 31
    ids = few_allowed(mask, 5000)
    assert ids is not None
    assert ids.tolist() == [0, 31, 71, 4999]
    mask[100:120] = 1 << 5  # no handful any more
    more = few_allowed(mask, 5000)
    assert more is not None
    assert more.tolist() == [0, 31, 71, *range(3205, 3845, 32), 4999]
    assert few_allowed(np.ones(157, np.uint32), 5000) is None
    nothing = few_allowed(np.zeros(157, np.uint32), 5000)
    assert nothing is not None
    assert len(nothing) == 0


def test_the_others_are_hidden_and_no_allowed_bit_of_a_logit_changes() -> None:
    logits = row("normal", 3, 5000)
    hidden = logits.copy()
    hide_others(hidden, packed(MANY_IDS, 5000))
    assert hidden[1::2].tobytes() == logits[1::2].tobytes()
    assert (hidden[::2] == -np.inf).all()


@pytest.mark.parametrize("ids", [FEW_IDS, MANY_IDS], ids=["few", "many"])
@pytest.mark.parametrize("rules", [{}, {"logprobs": 0}, {"frequency_penalty": 0.1}], ids=str)
def test_the_largest_allowed_is_taken_and_the_lower_of_two(ids: set[int], rules: dict[str, Any]) -> None:
    logits = row("tied", 5, 5000)
    logits[[2, 4, 100]] = 90.0  # none of them is allowed
    expected = max(sorted(ids), key=lambda token: logits[token])
    drawn = only(logits, ids, **rules)
    assert isinstance(drawn, Sampled)
    assert drawn.token_id == expected
    assert (drawn.logprobs is not None) == ("logprobs" in rules)
    logits[4999] = 95.0  # now the largest of all is allowed
    best = only(logits, ids, **rules)
    assert isinstance(best, Sampled)
    assert best.token_id == 4999
    assert (best.logprobs is not None) == ("logprobs" in rules)


@pytest.mark.parametrize("ids", [FEW_IDS, MANY_IDS], ids=["few", "many"])
@pytest.mark.parametrize("forbidden", [0.25, 7.0])  # below and above the likeliest that is allowed
def test_each_allowed_token_comes_with_its_share_of_what_is_allowed(ids: set[int], forbidden: float) -> None:
    logits = np.full(5000, -60.0, np.float32)
    logits[[3, 65, 4999, 2, 66]] = np.log([0.1, 0.2, 0.3, 0.05, forbidden])  # the last two are not allowed
    state = SamplerState(request("r", [0], temperature=1.0, seed=1), 0)
    counts = dict.fromkeys((3, 65, 4999), 0)
    for step in range(600):
        state._uniforms = [(step + 0.5) / 600]
        drawn = sample(logits[None].copy(), [state], [Allowed(packed(ids, 5000))])[0]
        assert isinstance(drawn, Sampled)
        counts[drawn.token_id] += 1
    assert counts == {3: 100, 65: 200, 4999: 300}


@pytest.mark.parametrize("ids", [FEW_IDS, MANY_IDS], ids=["few", "many"])
def test_log_probabilities_are_of_what_the_mask_leaves_before_every_other_rule(ids: set[int]) -> None:
    logits = np.full(5000, -90.0, np.float32)
    logits[[3, 65, 2]] = np.log([0.25, 0.75, 40.0])
    drawn = only(logits, ids, logprobs=2, logit_bias=((3, 50.0),), allowed_token_ids=(3,))
    assert isinstance(drawn, Sampled)
    assert drawn.token_id == 3
    assert drawn.logprobs is not None
    assert drawn.logprobs.logprob == pytest.approx(math.log(0.25), abs=1e-5)
    assert [token for token, _ in drawn.logprobs.top] == [65, 3]
    assert [value for _, value in drawn.logprobs.top] == pytest.approx([math.log(0.75), math.log(0.25)], abs=1e-5)


def test_a_list_longer_than_what_is_allowed_is_filled_up_at_the_floor() -> None:
    drawn = only(row("normal", 1, 5000), {70, 71}, logprobs=5, seed=1, temperature=1.0)
    assert isinstance(drawn, Sampled)
    assert drawn.logprobs is not None
    top = drawn.logprobs.top
    assert {token for token, _ in top[:2]} == {70, 71}
    assert sum(math.exp(value) for _, value in top[:2]) == pytest.approx(1.0, abs=1e-6)
    assert top[2:] == ((0, LOGPROB_FLOOR), (1, LOGPROB_FLOOR), (2, LOGPROB_FLOOR))


@pytest.mark.parametrize("ids", [FEW_IDS, MANY_IDS], ids=["few", "many"])
def test_a_row_that_is_no_number_is_found_though_the_mask_hides_where(ids: set[int]) -> None:
    logits = row("normal", 1, 5000)
    logits[2] = math.nan
    assert only(logits, ids) == UNUSABLE
    assert only(np.full(5000, -np.inf, np.float32), ids, seed=1, temperature=1.0) == UNUSABLE


def test_rows_with_and_without_masks_draw_alike_together_and_alone() -> None:
    logits = np.stack([row("zipf", seed, 5003) for seed in range(9)])
    masks = [None, FEW_IDS, MANY_IDS] * 3

    def state(place: int) -> SamplerState:
        return SamplerState(request("r", [0], temperature=0.8, top_p=0.9, seed=place, logprobs=3), 0)

    allowed = [None if ids is None else Allowed(packed(ids, 5003)) for ids in masks]
    together = sample(logits.copy(), [state(place) for place in range(9)], allowed)
    assert together == [
        sample(logits[place : place + 1].copy(), [state(place)], [allowed[place]])[0] for place in range(9)
    ]
    bare = sample(logits.copy(), [state(place) for place in range(9)])
    assert together[::3] == bare[::3]
    assert all(isinstance(one, Sampled) for one in together)


def test_a_seed_draws_alike_whatever_else_is_asked_for() -> None:
    def drawn(**asked: Any) -> list[int]:
        state = SamplerState(request("r", [0], temperature=1.0, seed=4, **asked), 0)
        found = []
        for step in range(30):
            allowed = Allowed(packed({7} if step % 3 else MANY_IDS, 5000))
            token = sample(row("flat", step, 5000)[None], [state], [allowed])[0]
            assert isinstance(token, Sampled)
            found.append(token.token_id)
        return found

    assert drawn() == drawn(logprobs=1) == drawn(bad_words=((8,),)) == drawn(logprobs=0, logit_bias=((8, 1.0),))


def test_the_only_token_is_taken_at_once_unless_another_rule_has_a_say() -> None:
    logits = row("zipf", 3, 5000)
    logits[7] = -50.0
    for asked in ({}, {"temperature": 1.0, "top_p": 0.9, "seed": 4}, {"logprobs": 2}):
        state = SamplerState(request("r", [0], **asked), 0)
        known, found = (
            sample(logits[None].copy(), [state], [Allowed(packed({7}, 5000), sole=sole)])[0] for sole in (7, None)
        )
        assert known == found
        assert isinstance(known, Sampled)
        assert known.token_id == 7
    ruled = SamplerState(request("r", [0], stop_token_ids=frozenset({9})), 0)
    logits[9] = 50.0
    drawn = sample(logits[None].copy(), [ruled], [Allowed(packed({7}, 5000), may_end=True, sole=7)])[0]
    assert drawn == Sampled(9, None)
    banned = SamplerState(request("r", [0], bad_words=((7,),)), 0)
    assert isinstance(sample(logits[None].copy(), [banned], [Allowed(packed({7}, 5000), sole=7)])[0], NoToken)
    logits[7] = math.nan
    plain = SamplerState(request("r", [0]), 0)
    assert sample(logits[None].copy(), [plain], [Allowed(packed({7}, 5000), sole=7)])[0] == UNUSABLE


def test_a_matchers_mask_is_not_written_to() -> None:
    mask = packed({1, 2, 9}, 64)
    mask.flags.writeable = False
    ends = EndTokens(request("r", [0], eos=9, stop_token_ids=frozenset({2, 40}), ignore_eos=True))
    assert few_allowed(ends.applied(Allowed(mask, may_end=True)), 64).tolist() == [1, 2, 40]  # type: ignore[union-attr]
    assert few_allowed(ends.applied(Allowed(mask, may_end=False)), 64).tolist() == [1]  # type: ignore[union-attr]
    only_end = Allowed(packed({9}, 64), may_end=False)
    assert few_allowed(ends.applied(only_end), 64).tolist() == [9]  # type: ignore[union-attr]


TOKENS = st.integers(0, 59)


@settings(max_examples=120, deadline=None)
@given(
    ids=st.sets(TOKENS, max_size=6) | st.just(set(range(60))),
    may_end=st.booleans(),
    greedy=st.booleans(),
    logprobs=st.none() | st.just(2),
    rules=st.fixed_dictionaries(
        {},
        optional={
            "allowed_token_ids": st.lists(TOKENS, max_size=20).map(tuple),
            "bad_words": st.lists(TOKENS.map(lambda token: (token,)), max_size=9).map(tuple),
            "min_tokens": st.integers(0, 1),
            "stop_token_ids": st.frozensets(TOKENS, max_size=4),
            "ignore_eos": st.booleans(),
            "logit_bias": st.lists(st.tuples(TOKENS, st.sampled_from([-100.0, 100.0])), max_size=5).map(tuple),
            "repetition_penalty": st.sampled_from([0.5, 2.0]),
        },
    ),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("scale", [1, 100])  # a hundred: the same tokens far apart, so that they are many words
def test_what_is_drawn_is_allowed_by_all_and_an_error_says_that_nothing_is(
    scale: int,
    ids: set[int],
    may_end: bool,
    greedy: bool,
    logprobs: int | None,
    rules: dict[str, Any],
    seed: int,
) -> None:
    end = 59
    stops = rules.get("stop_token_ids", frozenset())
    may_come = ids | stops if may_end else ids - stops
    if rules.get("ignore_eos") and may_come - ({end} - stops):
        may_come = may_come - ({end} - stops)
    if rules.get("allowed_token_ids"):
        may_come = may_come & set(rules["allowed_token_ids"])
    may_come = may_come - {words[0] for words in rules.get("bad_words", ())}
    if rules.get("min_tokens"):
        may_come = may_come - stops - {end}
    logits = row("normal", seed, 60 if scale == 1 else 6000)
    mask = packed(ids if scale == 1 else ids | set(range(60, 6000)) if len(ids) == 60 else ids, len(logits))
    logits[60:] = -1e30  # allowed in a full mask, but never taken before a token that counts here
    sampling = {"temperature": 0.0 if greedy else 1.0, "seed": seed, "logprobs": logprobs, **rules}
    state = SamplerState(request("r", [0], eos=end, **sampling), 0)
    drawn = sample(logits[None], [state], [Allowed(mask, may_end)])[0]
    if may_come:
        assert isinstance(drawn, Sampled)
        assert drawn.token_id in may_come
    elif scale == 1 or len(ids) < 60:
        assert isinstance(drawn, NoToken)
        assert drawn.for_client
        assert drawn.error.startswith("no token may come next by all of these: the constraint on the answer")
