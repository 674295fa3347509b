"""The runbook quotes what the code says, and the arithmetic of docs/upkeep.md is the start's own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

import pytest

from runtime.errors import KVBudgetError
from runtime.loading.model_loader import ModelOptions, cpu_weight_bytes, plan_model
from runtime.package.manifest import ModelShape, Package
from runtime.session.kv_budget import KVWishes, kv_bytes_per_token, plan_kv_cache
from tests.paths import ROOT

RUNBOOK = (ROOT / "docs" / "runbook.md").read_text("utf-8")


@cache
def code() -> str:
    """The server's code, each text that goes over several lines in one."""
    files = [*sorted((ROOT / "api").rglob("*.py")), *sorted((ROOT / "runtime").rglob("*.py"))]
    return re.sub(r'"\s*\n\s*f?"', "", "\n".join(path.read_text("utf-8") for path in files))


def quoted(beginning: str, end: str) -> list[str]:
    """The first cells, in code, of the tables between two headings."""
    part = RUNBOOK.partition(f"\n{beginning}\n")[2].partition(f"\n{end}\n")[0]
    return re.findall(r"^\| `([^|]+?)`(?: \||, )", part, re.MULTILINE)


def lines_with(fragment: str) -> Iterator[str]:
    """The lines of the code that hold it. Looks for the fragment, not at each line: there are 40,000."""
    at = code().find(fragment)
    while at >= 0:
        end = code().find("\n", at)
        yield code()[code().rfind("\n", 0, at) + 1 : end]
        at = code().find(fragment, end)


def is_said(message: str) -> bool:
    """Whether a text of the code is ``message``, with a value at each ``…``."""
    parts = message.split("…")
    pattern = ".+?".join(re.escape(part) for part in parts)
    return any(re.search(pattern, line) for line in lines_with(max(parts, key=len)))


def test_each_quoted_message_is_the_code_s() -> None:
    messages = quoted("## By message", "## Nothing") + quoted(
        "### Requests are refused with 429", "### A client is at its limits"
    )
    assert len(messages) > 38
    assert [message for message in messages if not is_said(message)] == []


def test_a_message_that_nobody_says_is_noticed() -> None:
    assert not is_said("the engine dies: …")
    assert not is_said("cannot listen on …:…: …; choose another port")


def test_the_worked_example_is_what_a_start_computes(default_package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.loading.model_loader.available_memory_bytes", lambda: 7 * 2**30)
    page = (ROOT / "docs" / "upkeep.md").read_text("utf-8")
    plan = plan_model(default_package, ModelOptions())
    assert f"\n{plan.explain()}\n" in page
    prose = " ".join(page.split())
    assert f"weights are {cpu_weight_bytes(default_package):,} bytes" in prose
    with pytest.raises(KVBudgetError) as refused:
        plan_model(default_package, ModelOptions(num_slots=16))
    assert f"\n{refused.value}\n" in page
    asked = plan_model(default_package, ModelOptions(num_slots=16, max_model_len=4002))
    assert (asked.num_slots, asked.slot_tokens) == (16, 4002)
    assert "`--max-model-len 4002`" in page
    assert f"{16 * 8192 * plan.bytes_per_token / 2**30:g} GiB" in prose


def test_the_example_of_a_gpu_is_the_budget_s_arithmetic() -> None:
    per_token = kv_bytes_per_token(ModelShape(num_layers=32, num_kv_heads=8, head_dim=128, vocab_size=128_256), 2)
    assert per_token == 131_072
    slots = [
        plan_kv_cache(per_token, int(0.8 * (24 - weights) * 2**30), KVWishes(), model_len=8192).num_slots
        for weights in (16, 5)
    ]
    page = " ".join((ROOT / "docs" / "upkeep.md").read_text("utf-8").split())
    assert f"0.8 × 8 GiB hold {slots[0]} slots; with 5 GiB of int4 weights 0.8 × 19 GiB hold {slots[1]}" in page
    assert 8192 * per_token == 2**30
