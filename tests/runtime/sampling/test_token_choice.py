"""What temperature, min_p, top_k and top_p keep and draw, against a plain full sort in float64."""

from __future__ import annotations

import math
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import runtime.sampling.row_scan
from runtime.request import SamplingParams
from runtime.sampling.row_scan import LOWEST, RowScan
from runtime.sampling.token_choice import _settled_place, draw
from tests.runtime.sampling.sample_rows import KINDS, row


def plain(logits: np.ndarray, params: SamplingParams) -> dict[int, float]:
    """Temperature, min_p, top_k, top_p by a full stable sort: the probabilities that ``draw`` must follow."""
    weights = np.exp((logits.astype(np.float64) - logits.max()) / params.temperature)
    order = [int(token) for token in np.argsort(-logits, kind="stable")]
    order = [token for token in order if weights[token] >= params.min_p]
    order = order[: params.top_k] if params.top_k > 0 else order
    total, kept, mass = sum(weights[token] for token in order), [], 0.0
    for token in order:
        kept.append(token)
        mass += weights[token]
        if mass >= params.top_p * total:
            break
    return {token: weights[token] / mass for token in kept}


@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([1, 40, 1000, 6000]),
    spread=st.sampled_from([0.03, 0.3, 1.0, 4.0]),
    temperature=st.sampled_from([0.2, 0.7, 1.0, 2.0]),
    top_p=st.sampled_from([1e-6, 0.1, 0.5, 0.9, 0.999, 1.0]),
    top_k=st.sampled_from([0, 1, 3, 50, 5000]),
    min_p=st.sampled_from([0.0, 0.01, 0.3, 1.0]),
)
def test_draw_follows_the_full_sort(
    kind: str, seed: int, size: int, spread: float, temperature: float, top_p: float, top_k: int, min_p: float
) -> None:
    logits = row(kind, seed, size) * np.float32(spread)
    before = logits.copy()
    params = SamplingParams(max_tokens=1, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p)
    expected = plain(logits, params)
    ordered = list(expected)
    ends = np.cumsum([*expected.values()])
    for uniform in (0.0, 0.001, 0.1, 0.5, 0.77, 0.999, 1.0 - 2**-53):
        token = drawn(logits, params, uniform)
        if uniform == 0.0:
            assert token == ordered[0]
        place = int(np.searchsorted(ends, uniform * ends[-1], side="right"))
        first = int(np.searchsorted(ends, (uniform - 1e-5) * ends[-1], side="right"))
        last = int(np.searchsorted(ends, (uniform + 1e-5) * ends[-1], side="right"))
        near = ordered[max(0, min(first, place - 1)) : max(last, place + 1) + 1]
        assert token in near  # a neighbour is right too where rounding decides
    assert logits.tobytes() == before.tobytes()


def kept(logits: np.ndarray, params: SamplingParams) -> list[int]:
    """What a row keeps, likeliest first, found by drawing once within each of the tokens that the full sort keeps."""
    expected = plain(logits, params)
    ends = np.cumsum([*expected.values()])
    middles = ends - np.array([*expected.values()]) / 2
    return [drawn(logits, params, uniform / ends[-1]) for uniform in middles.tolist()]


@pytest.mark.parametrize(("top_p", "expected"), [(0.5, range(250)), (0.2, range(100)), (0.9995, range(500))])
def test_ties_go_to_the_lower_ids(top_p: float, expected: range) -> None:
    params = SamplingParams(max_tokens=1, temperature=1.0, top_p=top_p)
    assert kept(np.zeros(500, np.float32), params) == list(expected)
    one_above = np.zeros(500, np.float32)
    one_above[400] = math.log(2)  # weighs as much as two others
    assert kept(one_above, SamplingParams(max_tokens=1, top_k=3)) == [400, 0, 1]
    if top_p == 0.5:  # 501 in all; 250.5 takes the heavy one and 249 others
        assert kept(one_above, params) == [400, *range(249)]


@pytest.mark.parametrize("offset", [0.0, -70.0, 300.0, -1e6])
@pytest.mark.parametrize("size", [1, 17, 49_152, 49_153, 60_001])
def test_a_scan_finds_the_largest_and_the_weight(offset: float, size: int) -> None:
    logits = row("normal", 3, size) + np.float32(offset)
    logits[size // 2 : size // 2 + 9] = -np.inf
    logits[-1] = offset
    temperatures = (0.8, 1.0, 0.01)
    scan = RowScan(logits, *temperatures)
    assert (scan.best, scan.peak) == (int(logits.argmax()), float(logits.max()))
    for temperature, total in zip(temperatures, scan.totals, strict=True):
        weights = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
        assert total == pytest.approx(weights.sum(), rel=220 * 2.0**-24)
    precise = RowScan(logits, 1.0, precise=True).totals[0]
    assert precise == pytest.approx(np.exp(logits.astype(np.float64) - logits.max()).sum(), rel=5e-7)
    for count in (1, 5, 20):
        assert scan.largest(count).tolist() == np.argsort(-logits, kind="stable")[:count].tolist()
    assert scan.reaching(LOWEST).tolist() == np.flatnonzero(logits > -np.inf).tolist()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 30_000, 59_999])
def test_a_scan_finds_what_is_no_number(bad: float, place: int) -> None:
    logits = row("normal", 3, 60_000)
    logits[place] = bad
    scan = RowScan(logits, 1.0)
    assert not scan.is_usable
    assert scan.totals == []
    assert draw(logits, SamplingParams(max_tokens=1), 0.5) is None
    assert not RowScan(np.full(9, -np.inf, np.float32), 1.0).is_usable


@pytest.mark.parametrize("count", [1, 2, 20, 300, 4999, 5000, 6000])
def test_a_floor_lets_the_largest_through_and_few_more(count: int) -> None:
    logits = np.random.default_rng(8).standard_normal(5000).astype(np.float32)
    through = int(np.count_nonzero(logits >= RowScan(logits).floor_of_top(count)))
    assert min(count, 5000) <= through
    assert through <= 1.5 * count + 64 or count >= 300


@pytest.mark.parametrize("dispatch", ["X86_V4", "AVX512_SKX", "baseline(X86_V2)"])
def test_both_exponentials_are_exp(dispatch: str) -> None:
    function, scale = runtime.sampling.row_scan._exponential(dispatch)
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
    other = "baseline" if runtime.sampling.row_scan._EXP is np.exp2 else "X86_V4"
    function, scale = runtime.sampling.row_scan._exponential(other)
    monkeypatch.setattr(runtime.sampling.row_scan, "_EXP", function)
    monkeypatch.setattr(runtime.sampling.row_scan, "_EXP_SCALE", scale)
    assert [[drawn(logits, params, u) for u in (0.1, 0.5, 0.9)] for logits, params in cases] == draws_of


def test_draw_follows_the_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    params = SamplingParams(max_tokens=1, temperature=1.0)
    counts = np.bincount([drawn(logits, params, u) for u in (np.arange(1000) + 0.5) / 1000], minlength=4)
    assert counts.tolist() == [500, 300, 150, 50]
    half = SamplingParams(max_tokens=1, temperature=1.0, top_p=0.75)
    tokens = [drawn(logits, half, u) for u in (np.arange(800) + 0.5) / 800]
    assert [tokens.count(token) for token in range(4)] == [500, 300, 0, 0]


@pytest.mark.parametrize("size", [40, 256, 300, 700])
def test_equal_tokens_are_drawn_equally_in_the_order_of_their_ids(size: int) -> None:
    params = SamplingParams(max_tokens=1, temperature=1.0)
    uniforms = (np.arange(size) + 0.5) / size
    assert [drawn(np.zeros(size, np.float32), params, u) for u in uniforms] == list(range(size))


@pytest.mark.parametrize("rules", [{}, {"top_p": 0.9}, {"top_k": 40}, {"min_p": 0.02, "top_p": 0.8}], ids=str)
def test_a_hundred_thousand_draws_follow_the_probabilities(rules: dict[str, float]) -> None:
    """Chi-square: every token that is expected 20 times or more, the others as one."""
    logits = row("zipf", 5, 150)
    params = SamplingParams(max_tokens=1, temperature=1.3, **rules)  # type: ignore[arg-type]
    expected = plain(logits, params)
    uniforms = np.random.default_rng(11).random(100_000)
    edges = np.sort(uniforms)
    # The token is a rising step function of the number, so its steps are found by bisection instead of by drawing all.
    counts = dict.fromkeys(expected, 0)
    low = 0
    while low < len(edges):
        token = drawn(logits, params, float(edges[low]))
        high = len(edges)
        first, last = low + 1, high
        while first < last:
            middle = (first + last) // 2
            if drawn(logits, params, float(edges[middle])) == token:
                first = middle + 1
            else:
                last = middle
        counts[token] += first - low
        low = first
    often = [token for token in expected if expected[token] * 1e5 >= 20]
    pairs = [(counts[token], expected[token] * 1e5) for token in often]
    rest = 1e5 - sum(wanted for _, wanted in pairs)
    if rest > 20:
        pairs.append((100_000 - sum(count for count, _ in pairs), rest))
    chi_square = sum((count - wanted) ** 2 / wanted for count, wanted in pairs)
    freedom = len(pairs) - 1
    assert abs(chi_square - freedom) < 4 * math.sqrt(2 * freedom)


def test_masked_tokens_are_never_drawn() -> None:
    logits = np.full(600, -np.inf, np.float32)
    logits[[3, 300]] = 0.0
    params = SamplingParams(max_tokens=1, temperature=1.0)
    assert {drawn(logits, params, u) for u in (0.0, 0.4999, 0.5, 0.9999999)} == {3, 300}


def drawn(logits: np.ndarray, params: SamplingParams, uniform: float) -> int:
    """``draw`` of a row that holds usable numbers, quiet about what overflows."""
    with np.errstate(all="ignore"):
        token_id = draw(logits, params, uniform)
    assert token_id is not None
    return token_id


def test_a_flat_distribution_keeps_the_lower_ids() -> None:
    params = SamplingParams(max_tokens=1, temperature=1.0, top_p=0.5)
    assert max(drawn(np.zeros(5000, np.float32), params, u) for u in (0.0, 0.3, 0.9999)) == 2499


@pytest.mark.parametrize("peak", [30.0, 33.3, 44.7])
def test_a_precise_scan_weighs_a_lone_token_at_one(peak: float) -> None:
    """Else its log-probability would be above 0 by a few digits that are told."""
    logits = np.full(512, -60.0, np.float32)
    logits[3] = peak
    assert RowScan(logits, 1.0, precise=True).totals[0] == 1.0


def test_the_first_of_equal_largest_is_best_across_chunks() -> None:
    logits = np.zeros(100_000, np.float32)
    logits[[60_000, 99_000]] = 5.0
    assert RowScan(logits).best == 60_000
    logits[[9, 48_000]] = 5.0
    assert RowScan(logits).best == 9


def test_no_exponent_of_a_cold_row_underflows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each that does takes exp2 150 times as long."""
    lowest: list[float] = []

    def watched(values: np.ndarray, out: np.ndarray) -> None:
        lowest.append(float(values.min()))
        np.exp2(values, out=out)

    monkeypatch.setattr(runtime.sampling.row_scan, "_EXP", watched)
    monkeypatch.setattr(runtime.sampling.row_scan, "_EXP_SCALE", math.log2(math.e))
    logits = row("normal", 1, 20_000)
    weights = np.exp((logits.astype(np.float64) - logits.max()) / 0.05)
    assert RowScan(logits, 0.05).totals[0] == pytest.approx(weights.sum(), rel=1e-5)
    assert RowScan(row("masked", 1, 20_000), 1.0).totals[0] >= 1.0
    assert lowest == [-125.0, -125.0]


def test_what_lies_on_an_end_belongs_to_the_next() -> None:
    cut = SamplingParams(max_tokens=1, temperature=1.0, top_k=2)
    even = np.zeros(2, np.float32)
    assert [drawn(even, cut, u) for u in (0.4999, 0.5)] == [0, 1]
    as_likely = SamplingParams(max_tokens=1, temperature=1.0, min_p=1.0)
    assert [drawn(np.array([5, 1, 5], np.float32), as_likely, u) for u in (0.4999, 0.5)] == [0, 2]


def test_a_number_beyond_all_gives_the_last_token_that_weighs_anything() -> None:
    """The weight of a row is a float32 sum, and may be a little above that of its line."""
    logits = np.array([0, -1, -2000], np.float32)
    scan = RowScan(logits, 1.0)
    scan.totals = [scan.totals[0] * 1.001]
    with np.errstate(all="ignore"):
        assert draw(logits, SamplingParams(max_tokens=1, temperature=1.0), 1.0 - 2**-53, scan) == 1


def test_a_place_is_settled_only_if_what_lies_beyond_the_line_cannot_move_it() -> None:
    line = Mock(weights=[1.0, 0.5], lighter=0.5)
    assert _settled_place(line, 10.0, 0.3, 0.45) is None  # 1.35 of 3 kept, or 1.575 of 3.5
    assert _settled_place(line, 10.0, 0.3, 0.4) == 1  # 1.2, or 1.4
    assert _settled_place(line, 10.0, 1.0, 0.14) == 1
    assert _settled_place(line, 10.0, 1.0, 0.15) is None
