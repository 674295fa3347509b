"""The file with golden rows: what was written comes back, and what cannot have been written is one error."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from runtime.errors import PackageError
from runtime.package.golden import (
    GOLDEN_FILE,
    LEAST_LOG,
    Distributions,
    GoldenRows,
    golden_bytes,
    golden_info,
    read_golden,
)
from runtime.package.manifest import Package, load_package
from runtime.package.package_file import file_info
from tests.runtime.package.made import make_package

GOLDEN = GoldenRows(
    texts=(np.array([3, 4, 5]), np.array([6])),
    places=np.array([[0, 0], [0, 2], [1, 0]]),
    rows=Distributions(
        best=np.array([[7, 8], [9, 10], [15, 0]]),
        log_probs=np.log(np.array([[0.5, 0.25], [0.75, 0.125], [0.5, 0.5]], np.float32)),
        log_rest=np.array([np.log(0.25), np.log(0.125), LEAST_LOG], np.float32),
    ),
)
"""Two texts of the vocabulary of 16, three rows with two tokens each."""
WORDS = [3, 1, 3, 4, 5, 6, 0, 0, 0, 2, 1, 0, 7, 8, 9, 10, 15, 0]
"""The file's integers: lengths, ids, places, best."""


def write(root: Path, data: bytes, **changes: Any) -> Package:
    make_package(root)
    (root / GOLDEN_FILE).write_bytes(data)
    info = msgspec.structs.replace(golden_info(GOLDEN), **changes)
    files = {name: file_info(root / name) for name in ("tokenizer.json", "ort/model.onnx", GOLDEN_FILE)}
    return load_package(make_package(root, golden=info, files=files))


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    data = golden_bytes(GOLDEN)
    assert data == struct.pack("<18i", *WORDS) + struct.pack(
        "<9f", *GOLDEN.rows.log_probs.reshape(-1), *GOLDEN.rows.log_rest
    )
    found = read_golden(write(tmp_path / "tiny", data))
    assert [text.tolist() for text in found.texts] == [[3, 4, 5], [6]]
    assert found.places.tolist() == GOLDEN.places.tolist()
    np.testing.assert_array_equal(found.rows.best, GOLDEN.rows.best)
    np.testing.assert_array_equal(found.rows.log_probs, GOLDEN.rows.log_probs)
    np.testing.assert_array_equal(found.rows.log_rest, GOLDEN.rows.log_rest)
    assert (found.positions(0), found.positions(1), found.first_row(0), found.first_row(1)) == ([0, 2], [0], 0, 2)


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        (0, 4, "has texts whose lengths do not add up"),
        (1, 0, "has texts whose lengths do not add up"),
        (0, -(2**31), "has texts whose lengths do not add up"),
        (2, 16, "names a token outside the vocabulary of 16"),
        (3, -1, "names a token outside the vocabulary of 16"),
        (6, 2, "has a row outside its texts"),
        (6, -1, "has a row outside its texts"),
        (7, -1, "has a row outside its texts"),
        (9, 3, "has a row outside its texts"),
        (9, 0, "has rows that are not in order"),
        (12, 16, "names a token outside the vocabulary of 16"),
        (12, 8, "names a token twice in one row"),
        (18, float("nan"), "holds values that are not finite"),
        (24, float("-inf"), "holds values that are not finite"),
        (19, 0.01, "holds values that are no log-probabilities"),
        (26, LEAST_LOG - 1, "holds values that are no log-probabilities"),
        (25, -0.5, "holds probabilities that do not add up to 1"),
        (18, -5.0, "holds probabilities that do not add up to 1"),
    ],
)
def test_numbers_that_cannot_be(tmp_path: Path, place: int, value: float, problem: str) -> None:
    data = bytearray(golden_bytes(GOLDEN))
    struct.pack_into("<i" if place < 18 else "<f", data, 4 * place, value)
    with pytest.raises(PackageError, match=rf"^tiny: golden\.bin {problem}; rebuild the package$"):
        read_golden(write(tmp_path / "tiny", bytes(data)))


@pytest.mark.parametrize(
    ("data", "changes", "text"),
    [
        (golden_bytes(GOLDEN)[:-4], {}, "has 104 bytes, the manifest implies 108"),
        (golden_bytes(GOLDEN) + b"\0" * 4, {}, "has 112 bytes, more than the 108 it may have"),
        (golden_bytes(GOLDEN), {"num_rows": 16384}, "has 108 bytes, the manifest implies"),
        (golden_bytes(GOLDEN), {"path": "elsewhere"}, "holds no 'elsewhere'"),
    ],
)
def test_a_file_of_another_size(tmp_path: Path, data: bytes, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(PackageError, match=text):
        read_golden(write(tmp_path / "tiny", data, **changes))


@pytest.mark.parametrize("name", ["num_texts", "num_tokens", "num_rows", "num_best"])
def test_sizes_that_would_be_believed(tmp_path: Path, name: str) -> None:
    for value in (0, 2**40):
        with pytest.raises(PackageError, match=rf"manifest\.json is not readable .*at `\$\.golden\.{name}"):
            write(tmp_path / "tiny", golden_bytes(GOLDEN), **{name: value})


def test_a_package_without_rows_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"holds no golden rows; make it anew with this 'powertrain export'"):
        read_golden(load_package(make_package(tmp_path / "tiny")))
