"""What a package step will take, computed from checkpoints whose headers are read once."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.checkpoint.checkpoint import Checkpoint
from export.pipeline import costs
from export.pipeline.cache import Entry, Stored
from export.pipeline.costs import Cost, CostBook, Headers
from export.pipeline.steps import PackageStep
from export.source.recipe import FolderSource, QualityLimits, Recipe
from tests.export.tiny_models import CONTEXT, write_tiny_folder

GIB = 2**30


def fetched(folder: Path, key: str) -> Stored:
    facts = {"checkpoint": str(folder)}
    entry = Entry(
        kind="fetch", key=key, label=key, inputs={}, facts=facts, files={}, seconds=1, peak_memory_bytes=1,
        created_unix=1,
    )  # fmt: skip
    return Stored(entry, folder)


def cost(book: CostBook, source: Stored, precision: str) -> Cost:
    recipe = Recipe(
        name="tiny", source=FolderSource(path="none"), precision=precision, dialects=("ort", "trt"),
        quality=QualityLimits(max_mean_kl=1.0),
    )  # fmt: skip
    return book.cost(PackageStep("tiny", ("fetch tiny",), recipe), {"fetch tiny": source})


def test_headers_are_read_once_for_each_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []

    def counted(path: Path) -> Checkpoint:
        opened.append(path)
        return open_headers(path)

    open_headers = costs.open_headers
    monkeypatch.setattr(costs, "open_headers", counted)
    one = fetched(write_tiny_folder(tmp_path / "one", "llama"), "1")
    two = fetched(write_tiny_folder(tmp_path / "two", "llama", changes={"vocab_size": 90}), "2")
    book = CostBook([], GIB)
    found = [cost(book, source, precision) for source in (one, two) for precision in ("int8", "fp16")]
    assert [cost(book, source, precision) for source in (one, two) for precision in ("int8", "fp16")] == found
    assert opened == [one.folder, two.folder]
    assert len({one.disk_bytes for one in found}) == 4
    assert all((one.memory_bytes or 0) > (one.disk_bytes or 0) > 0 for one in found)


def test_texts_are_as_long_as_the_context_lets_them_be(tmp_path: Path) -> None:
    headers = Headers(costs.open_headers(write_tiny_folder(tmp_path / "hf", "llama")))
    windows = {length: headers.quality_text(length) for length in (CONTEXT, 16)}
    assert {length: size.window_tokens for length, size in windows.items()} == {CONTEXT: CONTEXT, 16: 16}
    assert headers.quality_text(CONTEXT) == windows[CONTEXT]
    golden = {length: headers.golden_text(length) for length in (CONTEXT, 16)}
    assert golden[16].window_tokens <= 16 < golden[CONTEXT].window_tokens
    assert golden[CONTEXT].num_tokens < windows[CONTEXT].num_tokens


def test_a_checkpoint_that_cannot_be_read_has_no_known_cost(tmp_path: Path) -> None:
    assert cost(CostBook([], GIB), fetched(tmp_path / "gone", "1"), "int8") == Cost(None, None, None)
