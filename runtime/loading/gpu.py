"""Which NVIDIA GPUs this process may use, and which one it will: CUDA's list, put together with the driver's tool's.

CUDA's list counts, because CUDA runs the model: its order and ``CUDA_VISIBLE_DEVICES``. The tool knows the numbers that
people use and the driver's version, and is alone where cuda-python is missing. A UUID is what both call a GPU by, and
what everything after this calls it by. Starts no context in this process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runtime.errors import BackendError
from runtime.loading.cuda_query import CudaAnswer, SeenGpu, ask_cuda
from runtime.loading.nvidia_smi import Card, CardReport, list_cards
from runtime.session.gpu.gpu_uuid import bare_uuid

Ask = Callable[[tuple[str, ...]], CudaAnswer | None]


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, or one part of a GPU that MIG splits. ``compute_capability`` such as ``8.9``.

    ``index`` is nvidia-smi's number (a part has its GPU's), CUDA's where that tool is missing. ``uuid`` as the tool
    shows it. ``memory_bytes`` and ``free_bytes`` are 0 where nobody tells; ``free_bytes`` of the first in a report is
    what CUDA measured. ``driver`` is empty if unseen.
    """

    index: int
    uuid: str
    name: str
    compute_capability: str
    memory_bytes: int
    free_bytes: int
    driver: str

    @property
    def sm(self) -> str:
        """``sm89`` for compute capability 8.9."""
        return "sm" + self.compute_capability.replace(".", "")


@dataclass(frozen=True, slots=True)
class GpuReport:
    """The GPUs, the one to use first, or why there are none, and what would change that.

    With GPUs, ``problem`` is what is wrong beside them.
    """

    gpus: tuple[Gpu, ...]
    problem: str = ""
    fix: str = ""


def find_gpus(wanted: str | None = None, *, tool: str | None = None, ask: Ask = ask_cuda) -> GpuReport:
    """Every GPU that may be used: first ``wanted``, a number or the beginning of a UUID; else CUDA's first.

    Raises BackendError when ``wanted`` names none or several of them. ``tool`` is the path of ``nvidia-smi``.
    """
    cards = list_cards(tool)
    seen = ask(())
    report = _joined(cards, seen)
    if wanted is None:
        return report
    gpu = _chosen(wanted, report, cards)
    measured = report if gpu is report.gpus[0] else _joined(cards, ask((gpu.uuid,)))
    first = next((one for one in measured.gpus if one.uuid == gpu.uuid), gpu)
    return GpuReport((first, *(one for one in report.gpus if one is not gpu)), report.problem, report.fix)


def _joined(report: CardReport, seen: CudaAnswer | None) -> GpuReport:
    cards = report.cards
    if seen is not None and seen.gpus:
        joined = tuple(_gpu(gpu, ordinal, cards) for ordinal, gpu in enumerate(seen.gpus))
        return GpuReport(joined, seen.problem or (report.problem if cards else ""), report.fix)
    if not cards:
        return GpuReport((), report.problem, report.fix)
    if seen is not None and not seen.problem:
        hidden = ", ".join(f"{card.index} ({card.name})" for card in cards)
        return GpuReport((), f"CUDA_VISIBLE_DEVICES hides every GPU: {hidden}", "unset CUDA_VISIBLE_DEVICES")
    alone = tuple(
        Gpu(
            index=card.index,
            uuid=card.uuid,
            name=card.name,
            compute_capability=card.compute_capability,
            memory_bytes=card.memory_bytes,
            free_bytes=card.free_bytes,
            driver=card.driver,
        )
        for card in cards
    )
    return GpuReport(alone, report.problem if seen is None else seen.problem, report.fix)


def _gpu(seen: SeenGpu, ordinal: int, cards: tuple[Card, ...]) -> Gpu:
    """What CUDA says of a GPU, with the number, the UUID's prefix and the driver that the tool knows."""
    card, uuid = next(
        ((card, uuid) for card in cards for uuid in (card.uuid, *card.parts) if bare_uuid(uuid) == seen.uuid),
        (None, f"GPU-{seen.uuid}"),
    )
    is_whole = card is not None and card.uuid == uuid
    free = seen.free_bytes
    if free is None:
        free = card.free_bytes if card is not None and is_whole else 0
    return Gpu(
        index=ordinal if card is None else card.index,
        uuid=uuid,
        name=seen.name,
        compute_capability=seen.compute_capability,
        memory_bytes=seen.memory_bytes,
        free_bytes=free,
        driver=card.driver if card is not None else cards[0].driver if cards else "",
    )


def _chosen(wanted: str, report: GpuReport, cards: CardReport) -> Gpu:
    if not report.gpus:
        raise BackendError(f"GPU {wanted} was asked for: {report.problem}; {report.fix}")
    text = wanted.strip()
    if text.isdecimal():
        found = [gpu for gpu in report.gpus if gpu.index == int(text)]
    else:
        found = (
            [gpu for gpu in report.gpus if bare_uuid(gpu.uuid).startswith(bare_uuid(text))] if bare_uuid(text) else []
        )
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"{gpu.index} ({gpu.name}, {gpu.uuid})" for gpu in found or report.gpus)
    if found:
        raise BackendError(f"GPU {wanted} is several; name one by its UUID: {listed}")
    if hidden := _hidden(text, cards.cards):
        raise BackendError(
            f"GPU {wanted} is there, but CUDA does not show it to this process: set CUDA_VISIBLE_DEVICES={hidden}, or "
            f"take one of {listed}"
        )
    raise BackendError(f"there is no GPU {wanted}; those that there are: {listed}")


def _hidden(text: str, cards: tuple[Card, ...]) -> str:
    """The UUID of what the tool knows by a number or a UUID's beginning; empty if it knows nothing by it."""
    for card in cards:
        if text.isdecimal() and card.index == int(text):
            return card.parts[0] if card.parts else card.uuid
        for uuid in (card.uuid, *card.parts):
            if not text.isdecimal() and bare_uuid(text) and bare_uuid(uuid).startswith(bare_uuid(text)):
                return uuid
    return ""
