"""How many slots of which length fit into the memory given to the KV cache, with the arithmetic to print.

Pure numbers; knows neither arrays nor the graph. ``available_memory_bytes`` is the one reading of the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.defaults import DEFAULT_SLOTS
from runtime.errors import KVBudgetError
from runtime.package.manifest import ModelShape

MIN_SLOT_TOKENS = 16
"""A slot shorter than this can hold no useful prompt and answer."""


@dataclass(frozen=True, slots=True)
class KVPlan:
    """The cache's final dimensions. ``total_bytes`` = slots x rows x bytes per token.

    A sequence may fill ``slot_tokens`` of a slot's rows in memory; there are ``slot_rows`` of them where that is more.
    ``budget_note`` says how the budget came about.
    """

    num_slots: int
    slot_tokens: int
    bytes_per_token: int
    budget_bytes: int
    slot_rows: int = 0
    budget_note: str = ""

    @property
    def rows(self) -> int:
        """Rows of a slot in memory."""
        return max(self.slot_rows, self.slot_tokens)

    @property
    def total_bytes(self) -> int:
        """Bytes of a cache filled to the last row."""
        return self.num_slots * self.rows * self.bytes_per_token

    def explain(self) -> str:
        """One line of arithmetic for the log."""
        used = f" ({self.slot_tokens} in use)" if self.slot_tokens < self.rows else ""
        note = f": {self.budget_note}" if self.budget_note else ""
        return (
            f"kv cache: {self.num_slots} slots x {self.rows} tokens{used} x {self.bytes_per_token:,} bytes/token "
            f"= {self.total_bytes / 2**30:.2f} GiB of a budget of {self.budget_bytes / 2**30:.2f} GiB{note}"
        )


def kv_bytes_per_token(shape: ModelShape, itemsize: int) -> int:
    """2 (key, value) x layers x kv heads x head dim x bytes per element."""
    return 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class KVWishes:
    """What the operator asked of the cache; None where nothing was. What was asked for is granted or refused.

    ``budget_is_asked``: the budget is the operator's own number, not this machine's free memory.
    """

    num_slots: int | None = None
    slot_tokens: int | None = None
    budget_is_asked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotForm:
    """How a slot lies in memory: its rows are a multiple of ``row_step``, or ``fixed_rows`` whatever is asked for.

    ``shortening`` names what gives slots of so many rows, for the refusal.
    """

    row_step: int = 1
    fixed_rows: int | None = None
    shortening: Callable[[int], str] = "max_model_len {}".format

    def rows(self, num_tokens: int) -> int:
        """Rows of a slot that holds ``num_tokens``."""
        return self.fixed_rows or -(-num_tokens // self.row_step) * self.row_step


ANY_LENGTH = SlotForm()


def plan_kv_cache(
    bytes_per_token: int,
    budget_bytes: int,
    wishes: KVWishes,
    *,
    model_len: int,
    budget_note: str = "",
    form: SlotForm = ANY_LENGTH,
) -> KVPlan:
    """Fit slots into the budget: the wanted number at full length, by default as many as fit of ``DEFAULT_SLOTS``.

    Only where nothing at all was asked for, a machine that is short of memory gets one slot of less than ``model_len``,
    unless a slot's rows are fixed. Raises KVBudgetError with the numbers.
    """
    asked = wishes.slot_tokens
    if asked is not None and not MIN_SLOT_TOKENS <= asked <= model_len:
        raise KVBudgetError(
            f"max_model_len {asked} is not between {MIN_SLOT_TOKENS} and the {model_len} tokens that the model supports"
        )
    length = asked or model_len
    rows = form.rows(length)
    slots = wishes.num_slots or min(DEFAULT_SLOTS, budget_bytes // (bytes_per_token * rows))
    if wishes == KVWishes() and not slots and form.fixed_rows is None:
        shorter = budget_bytes // bytes_per_token
        slots, rows = 1, shorter - shorter % form.row_step
    length = min(length, rows)
    plan = KVPlan(max(1, slots), length, bytes_per_token, budget_bytes, rows, budget_note)
    if not slots or length < MIN_SLOT_TOKENS or plan.total_bytes > budget_bytes:
        least = max(rows, form.rows(MIN_SLOT_TOKENS))
        raise KVBudgetError(_refusal(replace(plan, slot_tokens=least, slot_rows=least), form))
    return plan


def _refusal(wanted: KVPlan, form: SlotForm) -> str:
    """The arithmetic of what does not fit, and what would."""
    bytes_per_token, budget_bytes = wanted.bytes_per_token, wanted.budget_bytes
    fitting = budget_bytes // (bytes_per_token * wanted.rows)
    shorter = budget_bytes // (bytes_per_token * wanted.num_slots)
    shorter -= shorter % form.row_step
    ways = [f"num_slots {fitting}"] if fitting else []
    ways += [form.shortening(shorter)] if shorter >= MIN_SLOT_TOKENS else []
    fits = f"; {' or '.join(ways)} would fit" if ways else ""
    note = f" ({wanted.budget_note})" if wanted.budget_note else ""
    return (
        f"a kv cache of {wanted.num_slots} slots x {wanted.rows} tokens x {bytes_per_token:,} bytes/token needs "
        f"{wanted.total_bytes:,} bytes, the budget is {budget_bytes:,}{note}{fits}; or raise the budget with "
        "kv_cache_bytes"
    )


def available_memory_bytes(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that new allocations may take: the kernel's MemAvailable, bounded by the control group's limit."""
    available = 0
    for line in meminfo.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    limit, used = cgroup / "memory.max", cgroup / "memory.current"
    if limit.is_file() and used.is_file() and (text := limit.read_text(encoding="ascii").strip()) != "max":
        available = min(available, max(0, int(text) - int(used.read_text(encoding="ascii"))))
    return available
