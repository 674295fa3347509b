"""What temperature, min_p, top_k and top_p keep and draw, against a plain full sort in float64."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import runtime.sampling.token_choice
from runtime.request import SamplingParams
from runtime.sampling.token_choice import draw, floor_of_top, heaviest, is_in_nucleus, nucleus
from tests.runtime.sampling.sample_rows import KINDS, row


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
    rules = top_k > 0 or min_p > 0.0 or top_p < 1.0
    ordered = sorted(expected) if rules else [token for token in by_stripes(size) if token in expected]
    ends = np.cumsum([expected[token] for token in ordered])
    for uniform in (0.001, 0.1, 0.5, 0.77, 0.999):  # 0 itself belongs to any token of negligible weight
        token = drawn(logits, params, uniform)
        if top_k == 0 and min_p == 0.0 and top_p < 1.0:  # from the whole row, unless that is not kept
            weights = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
            assert weights[weights > weights[token]].sum() < (top_p + 1e-5) * weights.sum()
            continue
        place = int(np.searchsorted(ends, uniform, side="right"))
        near = {ordered[max(0, min(place + shift, len(ordered) - 1))] for shift in (-1, 0, 1)}
        assert token in near  # a neighbour is right too where rounding decides


def by_stripes(size: int) -> list[int]:
    """Token ids in the order in which a draw from a whole row passes over them."""
    length = min(size, 256)
    whole = size // length * length
    return [*np.arange(whole).reshape(length, -1).T.ravel().tolist(), *range(whole, size)]


@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([1, 40, 1000, 6000, 20_000]),
    temperature=st.sampled_from([0.2, 0.8, 1.0, 2.0]),
    top_p=st.sampled_from([1e-6, 0.5, 0.95, 0.999, 1.0 - 1e-9, 1.0]),
    top_k=st.sampled_from([0, 1, 3, 50, 5000]),
    min_p=st.sampled_from([0.0, 0.01, 0.3, 1.0]),
)
def test_what_is_kept_starts_the_full_sort_and_ends_at_its_cut(
    kind: str, seed: int, size: int, temperature: float, top_p: float, top_k: int, min_p: float
) -> None:
    logits = row(kind, seed, size)
    params = SamplingParams(max_tokens=1, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p)
    if (top_p, top_k, min_p) == (1.0, 0, 0.0):
        return
    ids, found = kept(logits, params)
    weights = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    order = np.argsort(-logits, kind="stable")[: np.count_nonzero(weights > 0)]  # heaviest first, ties by lower id
    assert found == pytest.approx(weights[ids], rel=2e-5)
    near = 1e-5 * weights[order].sum()  # where sums in float32 and float64 may part
    fuzzy = np.abs(weights - min_p) < 1e-5 * min_p
    order = order[(weights >= min_p)[order] | fuzzy[order]]
    if top_k:
        order = order[:top_k]
    assert set(ids.tolist()) <= set(order.tolist())
    if top_p == 1.0:
        assert set(order.tolist()) - set(ids.tolist()) <= set(np.flatnonzero(fuzzy & (min_p < 1)).tolist())
        return
    assert ids.tolist() == sorted(order[: len(ids)].tolist())
    mass, share = np.cumsum(weights[order]), top_p * weights[order].sum()
    assert mass[len(ids) - 1] >= share - near
    assert len(ids) == 1 or mass[len(ids) - 2] <= share + near


def kept(logits: np.ndarray, params: SamplingParams) -> tuple[np.ndarray, np.ndarray]:
    """What a row keeps, ids [K] ascending and weights [K], as ``draw`` finds it."""
    scaled = logits * np.float32(runtime.sampling.token_choice._EXP_SCALE / params.temperature)
    if params.top_k or params.min_p:
        ids, weights = heaviest(scaled, float(scaled.max()), params)
    else:
        row = runtime.sampling.token_choice._weights(scaled, float(scaled.max()))
        total = float(row.sum())
        ids, weights = nucleus(row, total, params.top_p * total)
        for token_id in [*ids[weights > 0][:20], *ids[weights > 0][-20:], *ids[weights == 0][:20]]:
            near = abs(float(row[row > row[token_id]].sum()) / total - params.top_p) < 1e-5
            assert near or is_in_nucleus(row, token_id, total, params.top_p * total) == (token_id in ids[weights > 0])
    assert np.all(np.diff(ids) > 0)
    return ids[weights > 0], weights[weights > 0]


@pytest.mark.parametrize(("top_p", "expected"), [(0.5, range(2500)), (0.2, range(1000)), (0.99995, range(5000))])
def test_ties_at_the_cut_of_many_go_to_the_lower_ids(top_p: float, expected: range) -> None:
    params = SamplingParams(max_tokens=1, temperature=1.0, top_p=top_p)
    assert kept(np.zeros(5000, np.float32), params)[0].tolist() == list(expected)
    one_above = np.zeros(5000, np.float32)
    one_above[4000] = math.log(2)  # weighs as much as two others
    assert kept(one_above, SamplingParams(max_tokens=1, top_k=3))[0].tolist() == [0, 1, 4000]
    if top_p == 0.5:  # 5,001 in all; 2,500.5 takes the heavy one and 2,499 others
        assert kept(one_above, params)[0].tolist() == [*range(2499), 4000]


@pytest.mark.parametrize("count", [1, 2, 20, 300, 4999, 5000, 6000])
def test_a_floor_lets_the_largest_through_and_few_more(count: int) -> None:
    logits = np.random.default_rng(8).standard_normal(5000).astype(np.float32)
    through = int(np.count_nonzero(logits >= floor_of_top(logits, count)))
    assert min(count, 5000) <= through
    assert through <= 1.5 * count + 64 or count >= 300


@pytest.mark.parametrize("dispatch", ["X86_V4", "AVX512_SKX", "baseline(X86_V2)"])
def test_both_exponentials_are_exp(dispatch: str) -> None:
    function, scale = runtime.sampling.token_choice._exponential(dispatch)
    values = np.linspace(-80, 0, 1000, dtype=np.float32)
    expected = np.exp(values.astype(np.float64))
    assert function(values.astype(np.float64) * scale) == pytest.approx(expected, rel=1e-12)
    assert (function is np.exp) == dispatch.startswith("baseline")


def test_the_other_exponential_draws_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [
        (row(kind, 1, 6000), SamplingParams(max_tokens=1, temperature=0.7, **rule))
        for kind in KINDS
        for rule in ({"top_p": 0.9}, {"min_p": 0.05}, {"top_k": 9}, {})
    ]
    draws_of = [[drawn(logits, params, u) for u in (0.1, 0.5, 0.9)] for logits, params in cases]
    other = "baseline" if runtime.sampling.token_choice._EXP is np.exp2 else "X86_V4"
    function, scale = runtime.sampling.token_choice._exponential(other)
    monkeypatch.setattr(runtime.sampling.token_choice, "_EXP", function)
    monkeypatch.setattr(runtime.sampling.token_choice, "_EXP_SCALE", scale)
    assert [[drawn(logits, params, u) for u in (0.1, 0.5, 0.9)] for logits, params in cases] == draws_of


def test_draw_follows_the_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    params = SamplingParams(max_tokens=1, temperature=1.0)
    counts = np.bincount([drawn(logits, params, u) for u in (np.arange(1000) + 0.5) / 1000], minlength=4)
    assert counts.tolist() == [500, 300, 150, 50]
    # Of 800 first draws 160 are not kept; their second ones fall on tokens 0 and 1 as 5 to 3.
    half = SamplingParams(max_tokens=1, temperature=1.0, top_p=0.75)
    again = iter((np.arange(160) + 0.5) / 160)
    firsts = (np.arange(800) + 0.5) / 800
    tokens = [draw(logits.copy(), half, itertools.chain([u], again).__next__) for u in firsts]
    assert [tokens.count(token) for token in (0, 1, 2, 3, None)] == [500, 300, 0, 0, 0]
    assert next(again, None) is None


@pytest.mark.parametrize("size", [40, 256, 300, 700])
def test_equal_tokens_are_drawn_equally_also_those_in_no_stripe(size: int) -> None:
    params = SamplingParams(max_tokens=1, temperature=1.0)
    uniforms = (np.arange(size) + 0.5) / size
    assert [drawn(np.zeros(size, np.float32), params, u) for u in uniforms] == by_stripes(size)


def test_masked_tokens_are_never_drawn() -> None:
    logits = np.full(600, -np.inf, np.float32)
    logits[[3, 300]] = 0.0
    params = SamplingParams(max_tokens=1, temperature=1.0)
    assert {drawn(logits, params, u) for u in (0.0, 0.4999, 0.5, 0.9999999)} == {3, 300}


def drawn(logits: np.ndarray, params: SamplingParams, uniform: float) -> int:
    """``draw`` on a copy, since it overwrites its row."""
    token_id = draw(logits.copy(), params, lambda: uniform)
    assert token_id is not None
    return token_id


def test_a_flat_distribution_keeps_the_lower_ids() -> None:
    params = SamplingParams(max_tokens=1, temperature=1.0, top_p=0.5)
    assert max(drawn(np.zeros(5000, np.float32), params, u) for u in (0.0, 0.3, 0.9999)) == 2499
