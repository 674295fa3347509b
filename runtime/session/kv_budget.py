"""How many slots of which length fit into the memory given to the KV cache, with the arithmetic to print.

Pure numbers; knows neither arrays nor the graph. ``available_memory_bytes`` is the one reading of the machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.errors import KVBudgetError
from runtime.package.manifest import ModelShape

MIN_SLOT_TOKENS = 16
"""A slot shorter than this can hold no useful prompt and answer."""


@dataclass(frozen=True, slots=True)
class KVPlan:
    """The cache's final dimensions. ``total_bytes`` = slots x length x bytes per token."""

    num_slots: int
    slot_tokens: int
    bytes_per_token: int
    budget_bytes: int

    @property
    def total_bytes(self) -> int:
        """Bytes of a cache filled to the last row."""
        return self.num_slots * self.slot_tokens * self.bytes_per_token

    def explain(self) -> str:
        """One line of arithmetic for the log."""
        return (
            f"kv cache: {self.num_slots} slots x {self.slot_tokens} tokens x {self.bytes_per_token:,} bytes/token "
            f"= {self.total_bytes / 2**30:.2f} GiB of a budget of {self.budget_bytes / 2**30:.2f} GiB"
        )


def kv_bytes_per_token(shape: ModelShape, itemsize: int) -> int:
    """2 (key, value) x layers x kv heads x head dim x bytes per element."""
    return 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * itemsize


def plan_kv_cache(
    bytes_per_token: int, budget_bytes: int, *, wanted_slots: int, model_len: int, slot_tokens: int | None = None
) -> KVPlan:
    """Fit slots into the budget: first the wanted number at full length, else fewer slots, at last a shorter slot.

    ``slot_tokens`` given by the operator is kept or refused, never shortened. Raises KVBudgetError with the numbers.
    """
    if slot_tokens is not None and not MIN_SLOT_TOKENS <= slot_tokens <= model_len:
        raise KVBudgetError(
            f"max_model_len {slot_tokens} is not between {MIN_SLOT_TOKENS} and the {model_len} tokens that the model "
            "supports"
        )
    length = slot_tokens or model_len
    slots = min(wanted_slots, budget_bytes // (bytes_per_token * length))
    if slots < 1 and slot_tokens is None:
        slots, length = 1, budget_bytes // bytes_per_token
    if slots < 1 or length < MIN_SLOT_TOKENS:
        raise KVBudgetError(
            f"a kv cache of one slot of {slot_tokens or MIN_SLOT_TOKENS} tokens needs "
            f"{(slot_tokens or MIN_SLOT_TOKENS) * bytes_per_token:,} bytes, the budget is {budget_bytes:,}; "
            "raise the budget or lower max_model_len"
        )
    return KVPlan(num_slots=slots, slot_tokens=length, bytes_per_token=bytes_per_token, budget_bytes=budget_bytes)


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
