"""The quality figures by hand, the choice of units, and rope tables."""

from __future__ import annotations

import math

import numpy as np
import pytest

from export.checkpoint.spec import RopeScaling, RopeSpec
from export.errors import QualityError
from export.graph.rope import rope_tables
from export.measure.quality import check_quality, compare, text_windows
from export.measure.sensitivity import Unit, within_budget
from runtime.package.manifest import TOKENIZER_FILE, Package, Quality
from tests.export.tiny_models import tiny_tokenizer_json


def test_kl_and_likelihood_by_hand() -> None:
    """p = (3/4, 1/4), q = (1/2, 1/2): KL = 3/4 ln(3/2) + 1/4 ln(1/2); the second row is equal in both."""
    p = np.log(np.array([[3, 1], [1, 1]], np.float32))
    q = np.array([[0, 0], [5, 5]], np.float32)
    found = compare(p, q, np.array([0, 1]))
    assert found.kl == pytest.approx([0.75 * math.log(1.5) + 0.25 * math.log(0.5), 0.0], abs=1e-7)
    assert found.agrees.tolist() == [True, True]
    assert found.reference_nll == pytest.approx([math.log(4)])
    assert found.nll == pytest.approx([math.log(2)])


def test_bands_do_not_change_figures() -> None:
    random = np.random.default_rng(0)
    p, q = random.standard_normal((2, 70, 11)).astype(np.float32)
    ids = random.integers(0, 11, 70)
    whole = compare(p, q, ids)
    parts = [compare(p[i : i + 1], q[i : i + 1], ids[i : i + 1]).kl[0] for i in range(70)]
    assert whole.kl == pytest.approx(parts)
    assert len(whole.nll) == 69


def test_logits_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(QualityError, match="NaN or infinite"):
        compare(np.zeros((1, 2), np.float32), np.array([[np.nan, 0]], np.float32), np.array([0]))


def test_the_limit_is_kept_and_nan_is_over_it() -> None:
    def quality(mean_kl: float) -> Quality:
        return Quality("t", 10, mean_kl, 0.1, 0.9, 12.0, 11.0, 0.02)

    check_quality(quality(0.02), "x")
    for bad in (0.0201, math.nan):
        with pytest.raises(QualityError, match=r"the limit is 0\.02"):
            check_quality(quality(bad), "x")


def test_windows_cover_every_token_once() -> None:
    windows = list(text_windows(tiny_tokenizer_json(), 100))
    assert max(map(len, windows)) == 100
    assert min(map(len, windows)) >= 2
    longer = list(text_windows(tiny_tokenizer_json(), 10**6))
    assert len(longer) == 5  # five texts
    assert sum(map(len, longer)) - sum(map(len, windows)) <= 5  # a lone last token is left out


@pytest.mark.model
def test_the_default_package_s_report(default_package: Package) -> None:
    quality = default_package.manifest.quality
    assert quality is not None
    windows = list(text_windows(default_package.read_text(TOKENIZER_FILE)))
    assert quality.num_tokens == sum(map(len, windows)) > 3000
    assert 0 < quality.mean_kl <= quality.max_mean_kl == 0.02
    assert quality.top1_agreement > 0.9


def test_units_are_taken_cheapest_first_while_they_fit() -> None:
    units = [Unit("o", 0, 1, 100, 0.010), Unit("down", 0, 1, 400, 0.012), Unit("qkv", 0, 1, 300, 0.0)]
    assert [unit.role for unit in within_budget(units, 0.015)] == ["qkv", "down"]
    assert [unit.role for unit in within_budget(units, 0.011)] == ["qkv", "o"]
    assert [unit.role for unit in within_budget(units, -0.1)] == []


def test_rope_angles_by_hand() -> None:
    """theta 10000 over 4 dimensions: frequencies 1 and 1/100."""
    cos, sin = rope_tables(RopeSpec(10_000.0, 4), 3)
    assert cos[2] == pytest.approx([math.cos(2), math.cos(0.02)])
    assert sin[2] == pytest.approx([math.sin(2), math.sin(0.02)])
    linear = rope_tables(RopeSpec(10_000.0, 4, RopeScaling("linear", factor=2.0)), 3)[0]
    assert linear[2] == pytest.approx([math.cos(1), math.cos(0.01)])


def test_long_tables_take_the_long_factors() -> None:
    scaling = RopeScaling("longrope", original_max_positions=4, factors=(1.0, 1.0), long_factors=(2.0, 4.0))
    short = rope_tables(RopeSpec(10_000.0, 4, scaling), 4)[0]
    long = rope_tables(RopeSpec(10_000.0, 4, scaling), 5)[0]
    assert short[3] == pytest.approx([math.cos(3), math.cos(0.03)])
    assert long[3] == pytest.approx([math.cos(1.5), math.cos(0.0075)])
