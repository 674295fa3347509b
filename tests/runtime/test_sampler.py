"""The sampler against values computed by hand and against a plain full-sort implementation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.logit_rules import LogitRules
from runtime.request import Request, SamplingParams
from runtime.sampler import LOGPROB_FLOOR, SamplerState, sample, token_logprobs
from runtime.token_choice import draw
from tests.runtime.engine_driver import request


def rules(prompt: list[int] | None = None, eos: int = -1, **sampling: Any) -> LogitRules:
    return LogitRules(request("r", prompt or [0], eos=eos, **sampling))


def applied(logit_rules: LogitRules, logits: list[float]) -> list[float]:
    row = np.array(logits, np.float32)
    logit_rules.apply(row)
    return [float(value) for value in row]


def test_frequency_and_presence_count_generated_tokens_only() -> None:
    subject = rules(prompt=[0, 1], frequency_penalty=0.5, presence_penalty=0.25)
    for token_id in (2, 2, 3):
        subject.observe(token_id)
    assert applied(subject, [1.0, 1.0, 1.0, 1.0]) == [1.0, 1.0, 1.0 - 2 * 0.5 - 0.25, 1.0 - 0.5 - 0.25]


def test_repetition_divides_positive_and_multiplies_negative_logits_of_prompt_and_answer() -> None:
    subject = rules(prompt=[0, 1], repetition_penalty=2.0)
    subject.observe(2)
    assert applied(subject, [3.0, -3.0, 1.0, 5.0]) == [1.5, -6.0, 0.5, 5.0]


def test_bias_is_added_once_and_clamped() -> None:
    assert applied(rules(logit_bias=((0, 2.5), (1, 500.0))), [1.0, 1.0, 1.0]) == [3.5, 101.0, 1.0]


def test_allowed_tokens_alone_survive() -> None:
    assert applied(rules(allowed_token_ids=(2,)), [9.0, 8.0, 1.0]) == [-math.inf, -math.inf, 1.0]


def test_min_tokens_masks_every_end_token_until_reached() -> None:
    subject = rules(eos=1, min_tokens=1, stop_token_ids=frozenset({2}))
    assert applied(subject, [1.0, 1.0, 1.0]) == [1.0, -math.inf, -math.inf]
    subject.observe(0)
    assert applied(subject, [1.0, 1.0, 1.0]) == [1.0, 1.0, 1.0]


def test_a_banned_sequence_is_banned_only_when_it_would_complete() -> None:
    subject = rules(bad_words=((1, 2), (3,)))
    assert applied(subject, [0.0, 0.0, 0.0, 0.0]) == [0.0, 0.0, 0.0, -math.inf]
    subject.observe(1)
    assert applied(subject, [0.0, 0.0, 0.0, 0.0]) == [0.0, 0.0, -math.inf, -math.inf]


def test_neutral_rules_touch_nothing() -> None:
    subject = rules()
    assert subject.is_neutral
    assert applied(subject, [1.0, math.nan]) == pytest.approx([1.0, math.nan], nan_ok=True)


def plain(logits: np.ndarray, params: SamplingParams) -> dict[int, float]:
    """Temperature, min_p, top_k, top_p by a full stable sort: the probabilities that ``draw`` must follow."""
    weights = np.exp((logits.astype(np.float64) - logits.max()) / params.temperature)
    order = [int(token) for token in np.argsort(-weights.astype(np.float32), kind="stable")]
    order = [token for token in order if np.float32(weights[token]) >= np.float32(params.min_p)]
    order = order[: params.top_k] if params.top_k > 0 else order
    total, kept, mass = sum(weights[token] for token in order), [], 0.0
    for token in order:
        kept.append(token)
        mass += weights[token]
        if mass >= params.top_p * total:
            break
    return {token: weights[token] / mass for token in kept}


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([40, 1000, 6000]),
    spread=st.sampled_from([0.1, 1.0, 4.0, 12.0]),
    temperature=st.sampled_from([0.2, 0.7, 1.0, 2.0]),
    top_p=st.sampled_from([1e-6, 0.1, 0.5, 0.9, 0.999, 1.0]),
    top_k=st.sampled_from([0, 1, 3, 50, 5000]),
    min_p=st.sampled_from([0.0, 0.01, 0.3, 1.0]),
)
def test_draw_follows_the_full_sort(
    seed: int, size: int, spread: float, temperature: float, top_p: float, top_k: int, min_p: float
) -> None:
    generator = np.random.default_rng(seed)
    logits = (generator.standard_normal(size) * spread).astype(np.float32)
    params = SamplingParams(max_tokens=1, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p)
    expected = plain(logits, params)
    ordered = sorted(expected)
    ends = np.cumsum([expected[token] for token in ordered])
    for uniform in (0.001, 0.1, 0.5, 0.77, 0.999):  # 0 itself belongs to any token of negligible weight
        token = drawn(logits, params, uniform)
        place = int(np.searchsorted(ends, uniform, side="right"))
        near = {ordered[max(0, min(place + shift, len(ordered) - 1))] for shift in (-1, 0, 1)}
        assert token in near  # a neighbour is right too where rounding decides


def test_draw_follows_the_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    params = SamplingParams(max_tokens=1, temperature=1.0)
    counts = np.bincount([drawn(logits, params, u) for u in (np.arange(1000) + 0.5) / 1000], minlength=4)
    assert counts.tolist() == [500, 300, 150, 50]
    nucleus = SamplingParams(max_tokens=1, temperature=1.0, top_p=0.75)
    counts = np.bincount([drawn(logits, nucleus, u) for u in (np.arange(800) + 0.5) / 800], minlength=4)
    assert counts.tolist() == [500, 300, 0, 0]


def test_masked_tokens_are_never_drawn() -> None:
    logits = np.full(600, -np.inf, np.float32)
    logits[[3, 300]] = 0.0
    params = SamplingParams(max_tokens=1, temperature=1.0)
    assert {drawn(logits, params, u) for u in (0.0, 0.4999, 0.5, 0.9999999)} == {3, 300}


def drawn(logits: np.ndarray, params: SamplingParams, uniform: float) -> int:
    """``draw`` on a copy, since it overwrites its row."""
    return draw(logits.copy(), float(logits.max()), params, uniform)


def seeded(seed: int | None, index: int = 0) -> SamplerState:
    sampling = SamplingParams(max_tokens=9, temperature=1.0, seed=seed)
    return SamplerState(Request(request_id="r", prompt_ids=(0,), sampling=sampling, eos_token_ids=frozenset()), index)


def draws(state: SamplerState, others: int = 0, count: int = 20) -> list[int]:
    logits = np.random.default_rng(3).standard_normal((1 + others, 300)).astype(np.float32)
    rows: list[SamplerState | None] = [state, *(seeded(None) for _ in range(others))]
    return [sample(logits.copy(), rows)[0].token_id for _ in range(count)]


def test_a_seed_repeats_and_choices_differ() -> None:
    assert draws(seeded(7)) == draws(seeded(7))
    assert draws(seeded(7)) == draws(seeded(7), others=5)
    assert draws(seeded(7)) != draws(seeded(8))
    assert draws(seeded(7)) != draws(seeded(7, index=1))
    assert draws(seeded(-(2**63))) == draws(seeded(-(2**63)))
    assert draws(seeded(None)) != draws(seeded(None))


def test_logprobs_are_of_the_raw_logits() -> None:
    sampling = SamplingParams(max_tokens=1, temperature=0.0, logprobs=2, logit_bias=((0, 100.0),))
    one = Request(request_id="r", prompt_ids=(0,), sampling=sampling, eos_token_ids=frozenset())
    logits = np.log(np.array([[0.1, 0.2, 0.7]], np.float32))
    sampled = sample(logits, [SamplerState(one, 0)])[0]
    assert sampled.token_id == 0  # the bias decides the draw
    assert sampled.logprobs is not None
    assert sampled.logprobs.logprob == pytest.approx(math.log(0.1), abs=1e-6)
    assert [token for token, _ in sampled.logprobs.top] == [2, 1]
    assert [value for _, value in sampled.logprobs.top] == pytest.approx([math.log(0.7), math.log(0.2)], abs=1e-6)


def test_logprobs_of_masked_tokens_are_finite_and_ties_go_to_the_lower_id() -> None:
    row = np.array([0.0, -np.inf, 0.0, 0.0], np.float32)
    assert token_logprobs(row, 1, 2).logprob == LOGPROB_FLOOR
    assert [token for token, _ in token_logprobs(row, 0, 2).top] == [0, 2]


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_a_row_without_a_number_fails_alone(bad: float) -> None:
    logits = np.zeros((2, 4), np.float32)
    logits[0] = bad
    assert [one.token_id for one in sample(logits, [seeded(1), None])] == [-1, -1]
    logits[1, 2] = 50.0
    assert [one.token_id for one in sample(logits, [seeded(1), seeded(1)])] == [-1, 2]


def test_the_largest_of_many_are_found_in_order() -> None:
    logits = np.random.default_rng(5).permutation(5000).astype(np.float32)
    expected = [int(token) for token in np.argsort(-logits)[:20]]
    assert [token for token, _ in token_logprobs(logits, 0, 20).top] == expected


def test_a_flat_distribution_keeps_the_lower_ids() -> None:
    params = SamplingParams(max_tokens=1, temperature=1.0, top_p=0.5)
    assert max(drawn(np.zeros(5000, np.float32), params, u) for u in (0.0, 0.3, 0.9999)) == 2499


def test_rules_that_break_end_their_own_row() -> None:
    broken = SamplerState(request("r", [0], temperature=0.0, logit_bias=((99, 1.0),)), 0)  # id outside the row
    logits = np.zeros((2, 4), np.float32)
    logits[:, 2] = 1.0
    first, second = sample(logits, [broken, seeded(1)])
    assert first.token_id == -1
    assert second.token_id in range(4)
    tiny = SamplerState(request("r", [2], temperature=0.0, repetition_penalty=1e-45), 0)
    assert sample(logits[:1].copy(), [tiny])[0].token_id == -1  # 1 / 0: an infinite logit is no usable number
