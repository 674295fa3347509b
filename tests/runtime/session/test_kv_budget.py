"""The cache's arithmetic, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import KVBudgetError
from runtime.package.manifest import ModelShape
from runtime.session.kv_budget import available_memory_bytes, kv_bytes_per_token, plan_kv_cache


def test_bytes_per_token() -> None:
    shape = ModelShape(num_layers=30, num_kv_heads=3, head_dim=64, vocab_size=49152)
    assert kv_bytes_per_token(shape, 4) == 2 * 30 * 3 * 64 * 4 == 46080


def test_slots_shrink_before_length_does() -> None:
    assert plan_kv_cache(100, 100 * 8000, wanted_slots=16, model_len=1000).num_slots == 8
    plenty = plan_kv_cache(100, 10**9, wanted_slots=16, model_len=1000)
    assert (plenty.num_slots, plenty.slot_tokens, plenty.total_bytes) == (16, 1000, 1_600_000)
    tight = plan_kv_cache(100, 100 * 500, wanted_slots=16, model_len=1000)
    assert (tight.num_slots, tight.slot_tokens) == (1, 500)


def test_an_asked_length_is_kept_or_refused() -> None:
    assert plan_kv_cache(100, 100 * 999, wanted_slots=16, model_len=1000, slot_tokens=300).num_slots == 3
    with pytest.raises(KVBudgetError, match=r"300 tokens needs 30,000 bytes, the budget is 20,000"):
        plan_kv_cache(100, 20_000, wanted_slots=16, model_len=1000, slot_tokens=300)
    with pytest.raises(KVBudgetError, match="max_model_len 1001 is not between 16 and the 1000 tokens"):
        plan_kv_cache(100, 10**9, wanted_slots=16, model_len=1000, slot_tokens=1001)


def test_nothing_fits() -> None:
    with pytest.raises(KVBudgetError, match="raise the budget"):
        plan_kv_cache(100, 100 * 15, wanted_slots=16, model_len=1000)


def test_the_arithmetic_is_printed() -> None:
    line = plan_kv_cache(46080, 2**33, wanted_slots=4, model_len=2048).explain()
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
