"""Rules, seeds, log-probabilities and the independence of rows, against values computed by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from runtime.request import Request, SamplingParams
from runtime.sampling.logit_rules import LogitRules
from runtime.sampling.sampler import LOGPROB_FLOOR, UNUSABLE, NoToken, Sampled, SamplerState, sample, token_logprobs
from tests.runtime.engine_driver import request
from tests.runtime.sampling.sample_rows import KINDS, row


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


def test_bias_comes_before_repetition_and_that_before_frequency_and_presence() -> None:
    subject = rules(
        repetition_penalty=2.0, frequency_penalty=0.5, presence_penalty=0.25, logit_bias=((0, 3.0), (1, -3.0))
    )
    for token_id in (0, 1):
        subject.observe(token_id)
    assert applied(subject, [1.0, 1.0]) == [(1.0 + 3.0) / 2 - 0.75, (1.0 - 3.0) * 2 - 0.75]


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


def test_a_long_bad_word_is_banned_after_all_of_its_beginning_only() -> None:
    subject = rules(bad_words=((1, 2, 3),))
    for before, banned in ((2, False), (1, False), (2, True), (2, False)):
        subject.observe(before)
        assert (applied(subject, [0.0] * 4)[3] == -math.inf) == banned


def test_which_rules_ask_for_tokens() -> None:
    asking: list[dict[str, Any]] = [
        {"repetition_penalty": 1.3},
        {"presence_penalty": 0.7},
        {"frequency_penalty": 0.4},
        {"bad_words": ((9, 10),)},
    ]
    free: list[dict[str, Any]] = [{"bad_words": ((9,),)}, {"min_tokens": 3}, {"logit_bias": ((1, 2.0),)}, {"top_k": 3}]
    assert [rules(**asked).asks_for_tokens for asked in (*asking, *free)] == [True] * 4 + [False] * 4


def test_an_end_is_banned_for_so_many_tokens_and_no_more_however_early_that_is_asked() -> None:
    subject = rules(min_tokens=2, stop_token_ids=frozenset({7}))
    found: list[list[int]] = []
    for _ in range(3):
        for ahead_of in (0, 1):
            edits = subject.edits(32, ahead_of)
            found.append([] if edits is None else edits.ids.tolist())
        subject.observe(9)
    assert found == [[7], [7], [7], [], [], []]


def test_neutral_rules_touch_nothing() -> None:
    subject = rules()
    assert subject.is_neutral
    assert applied(subject, [1.0, math.nan]) == pytest.approx([1.0, math.nan], nan_ok=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "rules_of_choice", [{"top_p": 0.95}, {"top_k": 40, "top_p": 0.9}, {"min_p": 0.02}, {}], ids=str
)
def test_a_row_draws_alike_alone_and_in_any_place(kind: str, rules_of_choice: dict[str, Any]) -> None:
    logits = np.stack([row(kind, seed, 5003) for seed in range(16)])  # an odd size, so that rows begin unaligned
    logits[5] = math.nan

    def state(place: int) -> SamplerState:
        return SamplerState(request("r", [0], temperature=0.8, seed=place, logprobs=2, **rules_of_choice), 0)

    together = sample(logits.copy(), [state(place) for place in range(16)])
    backwards = sample(logits[::-1].copy(), [state(15 - place) for place in range(16)])[::-1]
    alone = [sample(logits[place : place + 1].copy(), [state(place)])[0] for place in range(16)]
    assert together == backwards == alone
    assert [isinstance(one, Sampled) for one in alone] == [place != 5 for place in range(16)]


def test_uniforms_are_the_generators_own_one_by_one() -> None:
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([7, 2])))
    state = seeded(7, index=2)
    assert [state.uniform() for _ in range(100)] == [generator.random() for _ in range(100)]


def test_logits_that_overflow_when_cooled_are_masked_without_a_warning() -> None:
    lowest = float(np.finfo(np.float32).min)  # what graphs that mask by adding put there
    logits = np.array([[lowest, 1.0, lowest, -np.inf]], np.float32)
    sampling = SamplingParams(max_tokens=1, temperature=0.1, top_p=0.9, seed=1)
    one = Request(request_id="r", prompt_ids=(0,), sampling=sampling, eos_token_ids=frozenset())
    assert sample(logits, [SamplerState(one, 0)]) == [Sampled(1, None)]


def seeded(seed: int | None, index: int = 0) -> SamplerState:
    sampling = SamplingParams(max_tokens=9, temperature=1.0, seed=seed)
    return SamplerState(Request(request_id="r", prompt_ids=(0,), sampling=sampling, eos_token_ids=frozenset()), index)


def draws(state: SamplerState, others: int = 0, count: int = 20) -> list[int]:
    logits = np.random.default_rng(3).standard_normal((1 + others, 300)).astype(np.float32)
    rows: list[SamplerState | None] = [state, *(seeded(None) for _ in range(others))]
    return [drawn_token(logits.copy(), rows) for _ in range(count)]


def drawn_token(logits: np.ndarray, rows: list[SamplerState | None]) -> int:
    first = sample(logits, rows)[0]
    assert isinstance(first, Sampled)
    return first.token_id


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
    assert isinstance(sampled, Sampled)
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
    assert sample(logits, [seeded(1), None]) == [UNUSABLE, None]
    logits[1, 2] = 50.0
    assert sample(logits, [seeded(1), seeded(1)]) == [UNUSABLE, Sampled(2, None)]


def test_the_largest_of_many_are_found_in_order() -> None:
    logits = np.random.default_rng(5).permutation(5000).astype(np.float32)
    expected = [int(token) for token in np.argsort(-logits)[:20]]
    assert [token for token, _ in token_logprobs(logits, 0, 20).top] == expected


def test_many_that_tie_come_in_the_order_of_their_ids() -> None:
    logits = row("tied", 3, 50_000)  # whole numbers: a few large ones, and many of each below
    logits[::100] = 40.0
    logits[::997] = 41.0
    expected = np.argsort(-logits, kind="stable")[:60].tolist()
    assert [token for token, _ in token_logprobs(logits, 0, 60).top] == expected


def test_rules_that_break_end_their_own_row() -> None:
    broken = SamplerState(request("r", [0], temperature=0.0, logit_bias=((99, 1.0),)), 0)  # id outside the row
    logits = np.zeros((2, 4), np.float32)
    logits[:, 2] = 1.0
    first, second = sample(logits, [broken, seeded(1)])
    assert first == UNUSABLE
    assert isinstance(second, Sampled)
    tiny = SamplerState(request("r", [2], temperature=0.0, repetition_penalty=1e-45), 0)
    (overflowed,) = sample(logits[:1].copy(), [tiny])  # 1 / 0: an infinite logit is no usable number
    assert overflowed == NoToken("no token may come next by all of these: the rules of the request", for_client=True)
