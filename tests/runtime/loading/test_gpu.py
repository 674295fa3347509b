"""Which GPU is used: the driver's tool, CUDA's list and the operator's wish, put together by UUID."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.errors import BackendError
from runtime.loading import cuda_query
from runtime.loading.cuda_query import CudaAnswer, SeenGpu, ask_cuda
from runtime.loading.gpu import Gpu, GpuReport, find_gpus
from runtime.loading.nvidia_smi import CardReport, list_cards

GIB, MIB = 2**30, 2**20
FAST, SLOW, HALF, REST = (f"{digit * 8}-0000-0000-0000-000000000000" for digit in "adeb")
"""UUIDs: a card that CUDA lists first though the tool lists it last, another, and two parts of a third."""

CARDS = f"""\
0, GPU-{SLOW}, NVIDIA T4, 7.5, 15360, 15000, 580.65
1, GPU-{FAST}, NVIDIA GeForce RTX 4090, 8.9, 24564, 20480, 580.65
2, GPU-99999999-0000-0000-0000-000000000000, NVIDIA A100-SXM4-40GB, 8.0, 40960, 40000, 580.65"""
LISTED = f"""\
GPU 0: NVIDIA T4 (UUID: GPU-{SLOW})
GPU 1: NVIDIA GeForce RTX 4090 (UUID: GPU-{FAST})
GPU 2: NVIDIA A100-SXM4-40GB (UUID: GPU-99999999-0000-0000-0000-000000000000)
  MIG 3g.20gb     Device  0: (UUID: MIG-{HALF})
  MIG 3g.20gb     Device  1: (UUID: MIG-{REST})"""

SEEN_FAST = SeenGpu(FAST, "NVIDIA GeForce RTX 4090", "8.9", 24 * GIB)
SEEN_SLOW = SeenGpu(SLOW, "Tesla T4", "7.5", 15 * GIB)
SEEN_HALF = SeenGpu(HALF, "NVIDIA A100-SXM4-40GB MIG 3g.20gb", "8.0", 20 * GIB)
SEEN_REST = SeenGpu(REST, "NVIDIA A100-SXM4-40GB MIG 3g.20gb", "8.0", 20 * GIB)


@pytest.fixture
def make_tool(tmp_path: Path) -> Callable[..., str]:
    """``nvidia-smi`` that prints one text for a query and another for ``-L``."""

    def make(cards: str = CARDS, listed: str = LISTED, *, status: int = 0) -> str:
        path = tmp_path / "nvidia-smi"
        asked = f"if [ \"$1\" = -L ]; then cat <<'E'\n{listed}\nE\nelse cat <<'E'\n{cards}\nE\nfi"
        path.write_text(f"#!/bin/sh\n{asked}\nexit {status}\n")
        path.chmod(0o755)
        return str(path)

    return make


@pytest.fixture
def tool(make_tool: Callable[..., str]) -> str:
    return make_tool()


def cuda(*gpus: SeenGpu, problem: str = "") -> Callable[[tuple[str, ...]], CudaAnswer]:
    """CUDA as ``ask_cuda`` asks it: the first GPU, or the one that is named, has 7 GiB free."""

    def ask(wanted: tuple[str, ...]) -> CudaAnswer:
        begins = tuple(one.lower().removeprefix("gpu-").removeprefix("mig-") for one in wanted) or ("",)
        measured = next((gpu for gpu in gpus if gpu.uuid.startswith(begins)), None)
        told = tuple(
            SeenGpu(gpu.uuid, gpu.name, gpu.compute_capability, gpu.memory_bytes, 7 * GIB if gpu is measured else None)
            for gpu in gpus
        )
        return CudaAnswer(told, problem)

    return ask


def without_cuda(_wanted: tuple[str, ...]) -> None:
    """cuda-python is not installed."""


def test_the_tool_tells_cards_and_the_parts_of_those_that_are_split(tool: str) -> None:
    slow, fast, split = list_cards(tool).cards
    assert (slow.index, slow.uuid, slow.free_bytes, slow.driver) == (0, f"GPU-{SLOW}", 15000 * MIB, "580.65")
    assert (fast.name, fast.compute_capability, fast.memory_bytes) == ("NVIDIA GeForce RTX 4090", "8.9", 24564 * MIB)
    assert (slow.parts, fast.parts, split.parts) == ((), (), (f"MIG-{HALF}", f"MIG-{REST}"))


@pytest.mark.parametrize("nothing", ["[N/A]", "[Not Supported]", "[Unknown Error]", "N/A"])
def test_memory_that_a_gpu_shares_with_the_machine_is_no_number(make_tool: Callable[..., str], nothing: str) -> None:
    tool = make_tool(f"0, GPU-{FAST}, NVIDIA GB10, 12.1, {nothing}, {nothing}, 580.95.05", "")
    (card,) = list_cards(tool).cards
    assert (card.name, card.memory_bytes, card.free_bytes) == ("NVIDIA GB10", 0, 0)
    shared = SeenGpu(FAST, "NVIDIA GB10", "12.1", 119 * GIB)
    (gpu,) = find_gpus(tool=tool, ask=cuda(shared)).gpus
    assert (gpu.sm, gpu.memory_bytes, gpu.free_bytes) == ("sm121", 119 * GIB, 7 * GIB)
    (alone,) = find_gpus(tool=tool, ask=without_cuda).gpus
    assert (alone.sm, alone.memory_bytes, alone.free_bytes) == ("sm121", 0, 0)


@pytest.mark.parametrize(
    "lost",
    [
        "Unable to determine the device handle for GPU1: 0000:41:00.0: Unknown Error",
        "1, [Unknown Error]",
        f"1, GPU-{FAST}, NVIDIA T4, [GPU is lost], [GPU is lost], [GPU is lost], [GPU is lost]",
        f"1, GPU-{FAST}, NVIDIA T4, 7.5, 15360, 15000, 580.65, 7",
    ],
)
def test_a_card_that_fell_off_the_bus_leaves_the_others(make_tool: Callable[..., str], lost: str) -> None:
    report = list_cards(make_tool(f"{CARDS.splitlines()[0]}\n{lost}"))
    assert [card.index for card in report.cards] == [0]
    assert report.problem == f"nvidia-smi says: {lost}"
    beside = find_gpus(tool=make_tool(f"{CARDS}\n{lost}"), ask=cuda(SEEN_FAST))
    assert (len(beside.gpus), beside.problem) == (1, f"nvidia-smi says: {lost}")
    unmeasured = find_gpus(tool=make_tool(), ask=cuda(SEEN_FAST, problem="CUDA failed choosing GPU"))
    assert (len(unmeasured.gpus), unmeasured.problem) == (1, "CUDA failed choosing GPU")
    assert list_cards(make_tool(lost)) == CardReport(
        (), f"nvidia-smi failed: {lost}", "restart the machine, or install the driver again"
    )


def test_a_failing_tool_is_a_reason(make_tool: Callable[..., str], tmp_path: Path) -> None:
    failing = make_tool("NVIDIA-SMI has failed", status=9)
    assert find_gpus(tool=failing, ask=without_cuda).problem == "nvidia-smi failed: NVIDIA-SMI has failed"
    assert find_gpus(tool=make_tool(""), ask=without_cuda).problem == "the driver sees no GPU"
    absent = str(tmp_path / "absent")
    assert find_gpus(tool=absent, ask=without_cuda).problem == "nvidia-smi did not answer (FileNotFoundError)"


def test_cuda_says_which_gpus_there_are_and_in_which_order(tool: str) -> None:
    fast, slow = find_gpus(tool=tool, ask=cuda(SEEN_FAST, SEEN_SLOW)).gpus
    assert fast == Gpu(1, f"GPU-{FAST}", "NVIDIA GeForce RTX 4090", "8.9", 24 * GIB, 7 * GIB, "580.65")
    assert (slow.index, slow.uuid, slow.name) == (0, f"GPU-{SLOW}", "Tesla T4")
    assert slow.free_bytes == 15000 * MIB  # CUDA measured the other one


def test_without_cuda_python_the_tool_is_believed(tool: str) -> None:
    assert [gpu.index for gpu in find_gpus(tool=tool, ask=without_cuda).gpus] == [0, 1, 2]


def test_without_the_tool_cuda_is_believed(tmp_path: Path) -> None:
    fast, slow = find_gpus(tool=str(tmp_path / "absent"), ask=cuda(SEEN_FAST, SEEN_SLOW)).gpus
    assert (fast.index, fast.uuid, fast.driver) == (0, f"GPU-{FAST}", "")
    assert (slow.index, slow.free_bytes) == (1, 0)
    chosen, _ = find_gpus("1", tool=str(tmp_path / "absent"), ask=cuda(SEEN_FAST, SEEN_SLOW)).gpus
    assert (chosen.name, chosen.free_bytes) == ("Tesla T4", 7 * GIB)


def test_a_cuda_that_fails_is_told_and_one_that_shows_nothing_hides_all(tool: str) -> None:
    failing = find_gpus(tool=tool, ask=cuda(problem="CUDA failed counting GPUs: cudaErrorInsufficientDriver"))
    assert ([gpu.index for gpu in failing.gpus], failing.problem[:20]) == ([0, 1, 2], "CUDA failed counting")
    names = "0 (NVIDIA T4), 1 (NVIDIA GeForce RTX 4090), 2 (NVIDIA A100-SXM4-40GB)"
    assert find_gpus(tool=tool, ask=cuda()) == GpuReport(
        (), f"CUDA_VISIBLE_DEVICES hides every GPU: {names}", "unset CUDA_VISIBLE_DEVICES"
    )


@pytest.mark.parametrize("wanted", ["0", f"GPU-{SLOW}", SLOW.upper(), "GPU-dddd", " dd "])
def test_a_gpu_is_named_by_its_number_in_the_tool_or_by_its_uuid(tool: str, wanted: str) -> None:
    report = find_gpus(wanted, tool=tool, ask=cuda(SEEN_FAST, SEEN_SLOW))
    assert [(gpu.index, gpu.free_bytes) for gpu in report.gpus] == [(0, 7 * GIB), (1, 7 * GIB)]
    first, _ = find_gpus("1", tool=tool, ask=cuda(SEEN_FAST, SEEN_SLOW)).gpus
    assert first.uuid == f"GPU-{FAST}"


def test_a_part_of_a_split_gpu_is_a_gpu(tool: str) -> None:
    (part,) = find_gpus("2", tool=tool, ask=cuda(SEEN_HALF)).gpus
    assert part == Gpu(2, f"MIG-{HALF}", SEEN_HALF.name, "8.0", 20 * GIB, 7 * GIB, "580.65")
    _, other = find_gpus(f"MIG-{HALF}", tool=tool, ask=cuda(SEEN_REST, SEEN_HALF)).gpus
    assert (other.uuid, other.free_bytes) == (f"MIG-{REST}", 7 * GIB)
    _, unmeasured = find_gpus(tool=tool, ask=cuda(SEEN_FAST, SEEN_HALF)).gpus
    assert unmeasured.free_bytes == 0  # what is free on the whole GPU is not free in its part
    with pytest.raises(BackendError, match=f"GPU 2 is several; name one by its UUID: 2 .*MIG-{HALF}.*MIG-{REST}"):
        find_gpus("2", tool=tool, ask=cuda(SEEN_HALF, SEEN_REST))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("0", f"GPU 0 is there, but CUDA does not show it .* set CUDA_VISIBLE_DEVICES=GPU-{SLOW}, or take one of 1 "),
        ("2", f"set CUDA_VISIBLE_DEVICES=MIG-{HALF}, or take one of 1"),
        (f"MIG-{REST}", f"set CUDA_VISIBLE_DEVICES=MIG-{REST}, or"),
        ("7", rf"there is no GPU 7; those that there are: 1 \(NVIDIA GeForce RTX 4090, GPU-{FAST}\)"),
        ("GPU-", "there is no GPU GPU-; those"),
        ("cuda:0", "there is no GPU cuda:0; those"),
    ],
)
def test_a_gpu_that_is_not_to_be_had_is_refused(tool: str, wanted: str, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        find_gpus(wanted, tool=tool, ask=cuda(SEEN_FAST))


def test_a_wish_without_any_gpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="GPU 0 was asked for: nvidia-smi did not answer"):
        find_gpus("0", tool=str(tmp_path / "absent"), ask=without_cuda)


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("kill -SEGV $$", "asking CUDA for its GPUs failed (exit status -11)"),
        ("echo hello", "asking CUDA for its GPUs failed (exit status 0)"),
        ("exec sleep 60", "CUDA does not answer for 0 s"),
        ('echo noise; echo \'{"gpus": [], "problem": "said"}\'', "said"),
    ],
)
def test_a_cuda_that_crashes_or_hangs_takes_its_own_process_along(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, problem: str
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(cuda_query, "_TIMEOUT_S", 0.2 if "sleep" in script else 60.0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    assert ask_cuda() == CudaAnswer(problem=problem)


def test_without_cuda_python_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert ask_cuda() is None


@pytest.mark.skipif(importlib.util.find_spec("cuda") is None, reason="cuda-python is not installed")
def test_the_real_cuda_answers_in_a_process_of_its_own() -> None:
    answer = ask_cuda()
    assert answer is not None
    assert answer.gpus or answer.problem.startswith("CUDA failed counting GPUs: cudaError")
