"""The cache's arithmetic, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import KVBudgetError
from runtime.package.manifest import ModelShape
from runtime.session.kv_budget import KVWishes, available_memory_bytes, kv_bytes_per_token, plan_kv_cache

NOTHING = KVWishes()


def test_bytes_per_token() -> None:
    shape = ModelShape(num_layers=30, num_kv_heads=3, head_dim=64, vocab_size=49152)
    assert kv_bytes_per_token(shape, 4) == 2 * 30 * 3 * 64 * 4 == 46080


def test_by_default_slots_shrink_before_length_does() -> None:
    assert plan_kv_cache(100, 100 * 8000, NOTHING, model_len=1000).num_slots == 8
    plenty = plan_kv_cache(100, 10**9, NOTHING, model_len=1000)
    assert (plenty.num_slots, plenty.slot_tokens, plenty.total_bytes) == (16, 1000, 1_600_000)
    tight = plan_kv_cache(100, 100 * 500, NOTHING, model_len=1000)
    assert (tight.num_slots, tight.slot_tokens) == (1, 500)


def test_asked_slots_are_granted_or_refused() -> None:
    exact = plan_kv_cache(100, 100 * 20 * 1000, KVWishes(num_slots=20), model_len=1000)
    assert (exact.num_slots, exact.slot_tokens) == (20, 1000)
    with pytest.raises(KVBudgetError) as refused:
        plan_kv_cache(100, 100 * 20 * 1000 - 1, KVWishes(num_slots=20), model_len=1000)
    assert str(refused.value) == (
        "a kv cache of 20 slots x 1000 tokens x 100 bytes/token needs 2,000,000 bytes, the budget is 1,999,999; "
        "num_slots 19 or max_model_len 999 would fit; or raise the budget with kv_cache_bytes"
    )
    assert plan_kv_cache(100, 2 * 10**9, KVWishes(num_slots=2000), model_len=1000).num_slots == 2000


def test_an_asked_length_is_kept_or_refused() -> None:
    assert plan_kv_cache(100, 100 * 999, KVWishes(slot_tokens=300), model_len=1000).num_slots == 3
    with pytest.raises(KVBudgetError, match=r"300 tokens x 100 bytes/token needs 30,000 bytes, the budget is 20,000"):
        plan_kv_cache(100, 20_000, KVWishes(slot_tokens=300), model_len=1000)
    with pytest.raises(KVBudgetError, match="max_model_len 1001 is not between 16 and the 1000 tokens"):
        plan_kv_cache(100, 10**9, KVWishes(slot_tokens=1001), model_len=1000)


def test_an_asked_budget_shortens_nothing() -> None:
    asked = KVWishes(budget_is_asked=True)
    assert plan_kv_cache(100, 100 * 3500, asked, model_len=1000).num_slots == 3
    with pytest.raises(KVBudgetError, match="needs 100,000 bytes, the budget is 50,000; max_model_len 500 would fit"):
        plan_kv_cache(100, 100 * 500, asked, model_len=1000)


def test_nothing_fits() -> None:
    for wishes in (NOTHING, KVWishes(num_slots=2), KVWishes(budget_is_asked=True)):
        for budget in (0, 99, 100 * 15):
            with pytest.raises(KVBudgetError, match="raise the budget") as refused:
                plan_kv_cache(100, budget, wishes, model_len=1000)
            assert "would fit" not in str(refused.value)


def test_the_arithmetic_is_printed() -> None:
    line = plan_kv_cache(46080, 2**33, KVWishes(num_slots=4), model_len=2048).explain()
    assert line == "kv cache: 4 slots x 2048 tokens x 46,080 bytes/token = 0.35 GiB of a budget of 8.00 GiB"


def test_available_memory_respects_the_control_group(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable: 50 kB\n")
    assert available_memory_bytes(meminfo, tmp_path / "none") == 50 * 1024
    (tmp_path / "memory.max").write_text("30000\n")
    (tmp_path / "memory.current").write_text("10000\n")
    assert available_memory_bytes(meminfo, tmp_path) == 20_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory_bytes(meminfo, tmp_path) == 50 * 1024
