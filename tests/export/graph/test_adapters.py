"""Adapters merged into weights, and given to a graph with room for them: both compute what the papers say."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from export.checkpoint.precision import EXACT
from export.graph.ort.graph import write_ort_graph
from export.measure import gauge
from export.measure.folded import FoldedCheckpoint
from export.measure.smoothing import fit_projections
from export.progress import SilentReporter
from export.source.opener import open_source
from export.source.recipe import LoraRoom, QualityLimits
from runtime.adapter import Adapter
from runtime.adapters.factors import FACTORS_FILE, read_factors
from runtime.adapters.fitted import fitted
from runtime.adapters.peft import read_adapter
from runtime.errors import PackageError
from runtime.loading.model_loader import adapter_room
from runtime.package.manifest import Package
from runtime.package.package_file import file_info
from runtime.session.cpu import ort_session
from runtime.session.cpu.adapter_arena import AdapterArena
from runtime.session.cpu.ort_session import OrtOptions, OrtSession
from runtime.session.kv_budget import KVPlan
from runtime.session.session import FloatArray, decode_logits
from tests.adapter_folders import modules_of, random_pairs
from tests.export.graph.adapted import (
    IDS,
    RANK,
    TOLERANCE,
    built,
    logits,
    package_of,
    recipe_of,
    session_of,
    tiny_adapter,
    with_adapter,
)
from tests.export.reference import reference_logits
from tests.export.tiny_models import tiny_config, tiny_tensors, write_tiny_folder

# A scaled residual, fused matrices, norms of queries and keys, norms behind the blocks.
ARCHITECTURES = ("granite", "phi3", "qwen3", "olmo2")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_merged_and_given_at_run_time_are_the_changed_weights(architecture: str, tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path / "hf", architecture)
    adapter = tiny_adapter(tmp_path / "adapter", architecture)
    # By the definition, on transformers' own matrices: W + alpha / r * B A.
    tensors = tiny_tensors(tiny_config(architecture))
    for name, (a, b) in random_pairs(modules_of(tensors), RANK, 1).items():
        tensors[name + ".weight"] = (tensors[name + ".weight"] + 2 * b @ a).astype(np.float32)
    changed = open_source(
        recipe_of(write_tiny_folder(tmp_path / "changed", architecture, tensors=tensors)), tmp_path, SilentReporter()
    )
    expected = reference_logits(changed.checkpoint, IDS)
    opened = open_source(recipe_of(folder, adapter=str(adapter)), tmp_path, SilentReporter())
    assert np.abs(reference_logits(opened.checkpoint, IDS) - expected).max() < TOLERANCE
    package = built(recipe_of(folder, lora=LoraRoom(rank=RANK + 3)), tmp_path / "room")
    session = session_of(package, num_slots=2)
    assert np.abs(with_adapter(session, package, adapter, 1) - expected).max() < TOLERANCE
    plain = reference_logits(open_source(recipe_of(folder), tmp_path, SilentReporter()).checkpoint, IDS)
    assert np.abs(logits(session) - plain).max() < TOLERANCE
    assert np.abs(plain - expected).max() > 0.5


def test_int8_with_an_adapter_is_as_good_as_int8_with_it_merged(folder: Path) -> None:
    checkpoint = open_source(recipe_of(folder / "hf", adapter="one"), folder, SilentReporter()).checkpoint
    exact = reference_logits(checkpoint, IDS)
    room = package_of(folder, "room")
    given, merged = (
        np.sqrt(np.mean((found - exact) ** 2))
        for found in (
            with_adapter(session_of(room), room, folder / "one", 0),
            logits(session_of(package_of(folder, "merged"))),
        )
    )
    assert given < 1.2 * merged


def test_without_an_adapter_a_graph_with_room_gives_the_same_bits(folder: Path) -> None:
    session, plain = session_of(package_of(folder, "room")), session_of(package_of(folder, "plain"))
    assert np.array_equal(logits(session), logits(plain))
    with_adapter(session, package_of(folder, "room"), folder / "one", 0)
    session.set_adapter(0, None)
    assert np.array_equal(logits(session), logits(plain))


def test_a_graph_with_room_is_measured_as_it_is_without_adapters(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gauge, "text_windows", lambda *_: [IDS])
    recipe = recipe_of(folder / "hf", precision="int8", quality=QualityLimits(max_mean_kl=1.0))
    room = msgspec.structs.replace(recipe, lora=LoraRoom(rank=RANK))
    found = [built(one, tmp_path / name).manifest.quality for name, one in (("plain", recipe), ("room", room))]
    assert found[0] == found[1] is not None


@pytest.mark.parametrize("differing", [1, 2])  # where every second row has an adapter, and where all have the same
def test_rows_that_differ_with_adapters_alone_are_told(
    differing: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[int, tuple[bool, ...]]] = []

    def compare(session: OrtSession, most: int = 16) -> bool:
        alone = [session.prefill(slot, IDS[:4], 0, 1)[0].copy() for slot in range(4)]
        compared.append((most, tuple(not np.array_equal(row, alone[1]) for row in alone)))
        return len(compared) - 1 != differing

    monkeypatch.setattr(ort_session, "rows_are_independent", compare)
    assert not session_of(package_of(folder, "room")).info.batch_invariant
    mixed, same = (True, False, True, False), (False,) * 4
    assert compared == [(16, same), (4, mixed), (4, same)][: differing + 1]
    del compared[:]
    assert session_of(package_of(folder, "plain")).info.batch_invariant
    assert compared == [(16, same)]


def test_rows_with_adapters_are_the_same_bits_alone_in_a_mixed_batch_and_in_chunks(folder: Path) -> None:
    package = package_of(folder, "room")
    session = session_of(package)
    assert session.info.batch_invariant
    names = ("one", None, "two", "one", None)
    prompts = []
    for slot, name in enumerate(names):
        prompts.append(logits(session, slot) if name is None else with_adapter(session, package, folder / name, slot))
    assert np.array_equal(prompts[0], prompts[3])
    assert np.array_equal(prompts[1], prompts[4])
    assert not np.allclose(prompts[0], prompts[2])
    for start, stop in ((0, 5), (5, 22), (22, 24)):
        chunk = session.prefill(3, IDS[start:stop], start, stop - start).copy()
        assert np.array_equal(chunk, prompts[0][start:stop])
    assert np.array_equal(session.prefill(3, IDS, 0, 1)[0], prompts[0][-1])  # however many rows of logits are asked for
    tokens, positions = np.arange(5) + 7, np.full(5, len(IDS))
    together = decode_logits(session, 0, tokens, positions).copy()
    for first, count in ((0, 1), (1, 1), (2, 2), (3, 1), (1, 3), (4, 1)):
        rows = slice(first, first + count)
        assert np.array_equal(decode_logits(session, first, tokens[rows], positions[rows]), together[rows])
    room = adapter_room(package)
    assert room is not None
    session.set_adapter(1, fitted(read_adapter(folder / "two"), room))  # where a call was bound and run without one
    assert not np.allclose(decode_logits(session, 1, tokens[1:2], positions[1:2]), together[1:2])
    session.set_adapter(0, None)  # its matrices were written for the batch before
    assert np.array_equal(logits(session), prompts[1])
    alone = decode_logits(session, 0, tokens[:1], positions[:1]).copy()
    assert np.array_equal(decode_logits(session, 0, tokens, positions)[0], alone[0])
    assert session.prefill(0, IDS[:5], 0, 0).shape == (0, 96)


def test_what_is_bound_once_for_all_rows_or_not_at_all_changes_no_bit(folder: Path) -> None:
    package = package_of(folder, "room")
    session, room = session_of(package), adapter_room(package)
    assert room is not None
    one, two = (fitted(read_adapter(folder / name), room) for name in ("one", "two"))
    few = Adapter("few", "few", {name: matrix for name, matrix in two.matrices.items() if ".o." in name})
    tokens, positions = np.full(5, 7), np.full(5, len(IDS))

    def after(*adapters: Adapter | None) -> FloatArray:
        for slot, adapter in enumerate(adapters):
            session.set_adapter(slot, adapter)
            session.prefill(slot, IDS, 0, 1)
        return decode_logits(session, 0, tokens[: len(adapters)], positions[: len(adapters)]).copy()

    mixed = after(one, two, few, None, one)
    alone = [after(adapter)[0] for adapter in (one, two, few, None)]
    assert np.array_equal(mixed, [*alone, alone[0]])
    assert len({row.tobytes() for row in alone}) == 4
    for rows in ((one,) * 5, (two,) * 5, (few,) * 5, (few, None, few, None, None), (one,) * 5):  # in bindings kept
        assert np.array_equal(after(*rows), [alone[(one, two, few, None).index(row)] for row in rows])


class Shapes:
    """A binding that remembers the shapes of its inputs."""

    def __init__(self) -> None:
        self.bound: dict[str, tuple[int, ...]] = {}

    def bind_input(self, name: str, _device: str, _id: int, _dtype: object, shape: tuple[int, ...], _at: int) -> None:
        self.bound[name] = shape


def test_a_call_reads_no_more_than_its_rows_adapters_change(folder: Path) -> None:
    room = adapter_room(package_of(folder, "room"))
    assert room is not None
    arena, one = AdapterArena(room, 4), fitted(read_adapter(folder / "one"), room)
    few = Adapter("few", "few", {name: matrix for name, matrix in one.matrices.items() if "qkv" in name})

    def rows_and_blocks(adapter: Adapter | None, num_rows: int) -> dict[str, tuple[int, int]]:
        for slot in range(num_rows):
            arena.set(slot, adapter)
        shapes = Shapes()
        arena.bind(shapes, 0, num_rows, arena.ready(0, num_rows))
        assert len(shapes.bound) == 2 * 2 * 4  # layers, matrices, projections
        return {name.removeprefix("lora."): (shape[0], shape[1]) for name, shape in shapes.bound.items() if shape[1]}

    assert rows_and_blocks(None, 3) == {}
    assert rows_and_blocks(few, 3) == {"0.qkv.a": (1, 2), "0.qkv.b": (1, 2), "1.qkv.a": (3, 2), "1.qkv.b": (3, 2)}
    whole = rows_and_blocks(one, 4)
    assert {name: rows for name, rows in whole.items() if name.endswith("a")} == {
        "0.qkv.a": (1, 2), "0.o.a": (4, 1), "0.gate_up.a": (1, 2), "0.down.a": (4, 1),
        "1.qkv.a": (4, 2), "1.o.a": (4, 1), "1.gate_up.a": (4, 2), "1.down.a": (4, 1),
    }  # fmt: skip


def test_factors_that_smoothing_moved_are_moved_into_adapters(folder: Path, tmp_path: Path) -> None:
    """Every projection's spread is moved and nothing is rounded, so only a lost factor could make a difference."""
    checkpoint = open_source(recipe_of(folder / "hf"), folder, SilentReporter()).checkpoint
    random, widths = np.random.default_rng(4), {"qkv": 64, "o": 64, "gate_up": 64, "down": 96}
    ranges = {
        f"layers.{layer}.{role}": random.uniform(0.1, 20, width).astype(np.float32)
        for layer in (0, 1)
        for role, width in widths.items()
    }
    smoothed = FoldedCheckpoint(checkpoint, fit_projections(checkpoint, ranges), ranges)
    package = package_of(folder, "room")
    room = adapter_room(package)
    assert room is not None
    assert read_factors(package, room) is None
    write_ort_graph(smoothed, EXACT, 64, tmp_path / "ort", SilentReporter(), room=room)
    smoothed.write_factors(tmp_path, room)
    listed = msgspec.structs.replace(package.manifest, files={FACTORS_FILE: file_info(tmp_path / FACTORS_FILE)})
    factors = read_factors(Package(tmp_path, listed), room)
    kv = KVPlan(num_slots=1, slot_tokens=64, bytes_per_token=0, budget_bytes=0)
    options = OrtOptions(intra_op_threads=1)
    session = OrtSession(tmp_path / "ort/model.onnx", package.manifest.shape, kv, options, "float32", room=room)
    session.set_adapter(0, fitted(read_adapter(folder / "one"), room, factors))
    merged = open_source(recipe_of(folder / "hf", adapter="one"), folder, SilentReporter()).checkpoint
    assert np.abs(logits(session) - reference_logits(merged, IDS)).max() < 2 * TOLERANCE
    (tmp_path / FACTORS_FILE).write_bytes(bytes(8))
    short = msgspec.structs.replace(listed, files={FACTORS_FILE: file_info(tmp_path / FACTORS_FILE)})
    with pytest.raises(PackageError, match=r"adapter_factors.bin has 8 bytes, its room needs 5888"):
        read_factors(Package(tmp_path, short), room)
