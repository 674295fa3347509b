"""The GPUs of this machine as the driver's own tool lists them: ``nvidia-smi``, which needs no library of ours.

Its order is that of the PCI bus, which is not CUDA's; a UUID tells which is which. Figures that it does not know
(``[N/A]``: memory that a GPU shares with the machine has none of its own) are 0.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

_FIELDS = ("index", "uuid", "name", "compute_cap", "memory.total", "memory.free", "driver_version")
_TIMEOUT_S = 20.0
_MIB = 2**20
_GPU_LINE = re.compile(r"GPU (\d+): .*\(UUID: (\S+)\)")
_PART_LINE = re.compile(r"\s+MIG .*\(UUID: (\S+)\)")
_BROKEN = "restart the machine, or install the driver again"


@dataclass(frozen=True, slots=True)
class Card:
    """One GPU. ``parts`` are the UUIDs of the parts that MIG splits it into. Bytes are 0 where the tool has none."""

    index: int
    uuid: str
    name: str
    compute_capability: str
    memory_bytes: int
    free_bytes: int
    driver: str
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CardReport:
    """The GPUs, and what is wrong, with some or with all of them, and what would change that."""

    cards: tuple[Card, ...]
    problem: str = ""
    fix: str = ""


def list_cards(tool: str | None = None) -> CardReport:
    """Ask the driver. ``tool`` is the path of ``nvidia-smi``, None to look for it."""
    path = tool or shutil.which("nvidia-smi")
    if path is None:
        fix = "apt install nvidia-driver" if shutil.which("apt") else "install NVIDIA's driver"
        return CardReport((), "no NVIDIA driver: nvidia-smi is not on the PATH", fix)
    answer = _run(path, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits")
    if isinstance(answer, CardReport):
        return answer
    lines = [line for line in answer.splitlines() if line.strip()]
    split = [[part.strip() for part in line.split(",")] for line in lines]
    if not any(_is_card(fields) for fields in split):
        if lines:
            return CardReport((), f"nvidia-smi failed: {lines[0]}", _BROKEN)
        return CardReport((), "the driver sees no GPU", "check the card, or the container's --gpus")
    listed = _run(path, "-L")
    parts = {} if isinstance(listed, CardReport) else _parts(listed)
    cards = tuple(_card(fields, parts) for fields in split if _is_card(fields))
    odd = [line for line, fields in zip(lines, split, strict=True) if not _is_card(fields)]
    return CardReport(cards, f"nvidia-smi says: {odd[0]}", _BROKEN) if odd else CardReport(cards)


def _run(path: str, *options: str) -> str | CardReport:
    try:
        done = subprocess.run([path, *options], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        return CardReport(
            (), f"nvidia-smi did not answer ({type(error).__name__})", "restart the machine or the driver"
        )
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).strip().splitlines() or ["no reason given"]
        return CardReport((), f"nvidia-smi failed: {lines[0]}", _BROKEN)
    return done.stdout


def _is_card(fields: list[str]) -> bool:
    """False for what the tool says about a GPU that it cannot read, such as one that has fallen off the bus."""
    return len(fields) == len(_FIELDS) and fields[0].isdecimal() and bool(re.fullmatch(r"\d+\.\d+", fields[3]))


def _card(fields: list[str], parts: dict[str, tuple[str, ...]]) -> Card:
    index, uuid, name, capability, total, free, driver = fields
    return Card(
        index=int(index),
        uuid=uuid,
        name=name,
        compute_capability=capability,
        memory_bytes=_bytes(total),
        free_bytes=_bytes(free),
        driver=driver,
        parts=parts.get(uuid, ()),
    )


def _bytes(mebibytes: str) -> int:
    """A field such as ``24564``, and 0 for ``[N/A]``, ``[Not Supported]`` or ``[Unknown Error]``."""
    return int(mebibytes) * _MIB if mebibytes.isdecimal() else 0


def _parts(listed: str) -> dict[str, tuple[str, ...]]:
    """GPU's UUID -> UUIDs of its MIG parts, from ``nvidia-smi -L``."""
    parts: dict[str, tuple[str, ...]] = {}
    card = ""
    for line in listed.splitlines():
        if found := _GPU_LINE.match(line):
            card = found[2]
            parts[card] = ()
        elif (found := _PART_LINE.match(line)) and card:
            parts[card] += (found[1],)
    return parts
