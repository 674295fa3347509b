"""``powertrain diff``: weights are read as what they stand for, and every kind of difference is told once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner

from export.checkpoint.precision import FP8, NVFP4, PrecisionPlan, WeightFormat
from export.checkpoint.quantize import dequantize_rows, quantize_paired, quantize_rows
from export.checkpoint.spec import DecoderSpec
from export.commands.diff import diff_command
from export.compare.difference import Difference, PackageDifference
from export.compare.manifest_diff import manifest_differences
from export.compare.packages import compare
from export.compare.stored_weights import StoredWeight, stored_weights
from export.graph.trt.weights import quantize_for, stored_values
from runtime.package.manifest import Quality, load_package, write_manifest
from runtime.package.package_file import file_info
from tests.export.random_checkpoint import RandomCheckpoint, plan, write_ort, write_trt
from tests.export.tiny_package import SPEC, write_package

F32 = npt.NDArray[np.float32]
NAME = "layers.0.down"


def whole(weight: StoredWeight) -> F32:
    return np.concatenate(list(weight.bands()))


def exact() -> F32:
    return RandomCheckpoint(SPEC).tensor(NAME).numpy()


def in_blocks(weights: F32, bits: int) -> F32:
    return dequantize_rows(*quantize_rows(weights, bits, 32))


def for_tensorrt(weights: F32, bits: int) -> F32:
    codes, scales = quantize_for(weights, bits, 32, np.float16)
    return dequantize_rows(codes, scales.astype(np.float32))


def by_column(weights: F32) -> F32:
    codes, scale = quantize_paired(weights)
    return codes * scale[:, np.newaxis]


def as_codes(weights: F32, form: WeightFormat) -> F32:
    return stored_values(weights, form, np.dtype(np.float16), float(np.abs(weights).max()))


INTEGERS = PrecisionPlan(WeightFormat(), "float32", {NAME: WeightFormat(8, 0, 0.5)})


@pytest.mark.parametrize(
    ("write", "chosen", "form", "expected"),
    [
        (write_ort, plan("fp32"), "float32", lambda values: values),
        (write_ort, replace(plan("int8"), float_type="float32"), "int8 block 32", lambda values: in_blocks(values, 8)),
        (write_ort, replace(plan("int4"), float_type="float32"), "int4 block 32", lambda values: in_blocks(values, 4)),
        (write_ort, INTEGERS, "int8 per column", by_column),
        (write_trt, plan("bf16"), "bfloat16", lambda values: values.astype("bfloat16").astype(np.float32)),
        (write_trt, plan("int8"), "int8 block 32", lambda values: for_tensorrt(values, 8)),
        (write_trt, plan("int4"), "int4 block 32", lambda values: for_tensorrt(values, 4)),
        (write_trt, plan("fp8"), "fp8 per channel", lambda values: as_codes(values, FP8)),
        (
            write_trt,
            plan("nvfp4"),
            "nvfp4 block 16",
            lambda values: as_codes(values, NVFP4),
        ),
    ],
)
def test_weights_are_read_as_what_the_graph_computes_with(
    tmp_path: Path,
    write: Callable[[DecoderSpec, Path, PrecisionPlan], Path],
    chosen: PrecisionPlan,
    form: str,
    expected: Callable[[F32], F32],
) -> None:
    weights = stored_weights(write(SPEC, tmp_path, chosen))
    found = weights[NAME]
    assert (found.form, found.shape) == (form, exact().shape)
    np.testing.assert_array_equal(whole(found), expected(exact()))
    np.testing.assert_array_equal(found.read(3, 5), expected(exact())[3:5])
    assert not any("matrix_scale" in name for name in weights)


@pytest.fixture
def packages(tmp_path: Path) -> tuple[Path, Path]:
    """Two packages of the same weights, under the same name in two folders."""
    first, second = tmp_path / "1" / "tiny", tmp_path / "2" / "tiny"
    write_package(first)
    shutil.copytree(first, second)
    return first, second


def rewrite(root: Path, **changes: Any) -> None:
    """Write the manifest anew, with the digests of the files as they are."""
    manifest = msgspec.structs.replace(load_package(root, verify_digests=False).manifest, **changes)
    files = [path for path in root.rglob("*") if path.is_file() and path.name != "manifest.json"]
    found = {path.relative_to(root).as_posix(): file_info(path) for path in sorted(files)}
    write_manifest(root, msgspec.structs.replace(manifest, files=found))


def add_files(root: Path, **texts: str) -> None:
    """Write files beside the manifest, their names with ``__`` for the dot."""
    manifest = load_package(root).manifest
    for name, text in texts.items():
        (root / name.replace("__", ".")).write_text(text)
    names = [name.replace("__", ".") for name in texts]
    files = manifest.files | {name: file_info(root / name) for name in names}
    write_manifest(root, msgspec.structs.replace(manifest, files=files))


def found_between(packages: tuple[Path, Path]) -> PackageDifference:
    return compare(*map(load_package, packages))


def test_the_same_package_built_at_another_time_differs_in_nothing(packages: tuple[Path, Path]) -> None:
    rewrite(packages[1], created_unix=5, build_seconds=7.0)
    found = found_between(packages)
    assert found.is_empty
    # ort: embedding, final norm, and 2 layers of 2 norms, 4 matrices; trt has the same, two with their own parts.
    assert found.num_equal_weights > 2 * (2 + 2 * 6)
    result = CliRunner().invoke(diff_command, list(map(str, packages)))
    assert result.exit_code == 0
    assert result.output.splitlines()[-1] == f"{found.num_equal_weights} weights are equal, 0 differ"


def test_fields_of_the_manifest_are_told_by_their_names(packages: tuple[Path, Path]) -> None:
    first = load_package(packages[0]).manifest
    quality = Quality("t", 9, 0.25, 0.5, 0.75, 20.0, 19.5, 0.02)
    second = msgspec.structs.replace(first, stop_token_ids=(0, 2), quality=quality, served_names=("a", "b"))
    found = {(one.section, one.what): (one.a, one.b) for one in manifest_differences(first, second)}
    assert found.pop(("package", "stop_token_ids")) == ("0", "0, 2")
    assert found.pop(("package", "served_names")) == ("tiny", "a, b")
    assert found.pop(("quality", "mean_kl")) == ("", "0.25")
    assert {section for section, _ in found} == {"quality"}


def test_a_changed_weight_is_told_with_its_distance(packages: tuple[Path, Path]) -> None:
    data = packages[1] / "ort" / "model.onnx.data"
    before = stored_weights(packages[0] / "ort" / "model.onnx")
    with data.open("r+b") as file:  # the embedding comes first: its first value becomes 3 more than it was
        value = whole(before["embedding"])[0, 0] + np.float32(3)
        file.write(np.float32(value).tobytes())
    rewrite(packages[1])
    found = found_between(packages)
    (one,) = found.weights
    norm = float(np.linalg.norm(whole(before["embedding"])))
    assert (one.graph, one.name) == ("ort", "embedding")
    assert one.largest == pytest.approx(3.0, rel=1e-6)
    assert one.relative == pytest.approx(3.0 / norm, rel=1e-5)
    assert [(d.section, d.what) for d in found.differences] == [("files", "ort/model.onnx.data")]


def test_another_precision_shows_in_nodes_forms_and_distances(tmp_path: Path) -> None:
    half, packed = write_package(tmp_path / "a"), write_package(tmp_path / "b", "int8")
    found = compare(half, packed)
    nodes = {one.what: (one.a, one.b) for one in found.differences if one.section == "graph trt"}
    assert nodes["DequantizeLinear nodes"][0] == "0"
    down = next(one for one in found.weights if one.name == NAME)
    assert (down.a, down.b) == ("float16 [64, 128]", "int8 block 32 [64, 128]")
    assert down.relative is not None
    assert 0.001 < down.relative < 0.01  # 8 bits: a step is 1/127 of a block's largest value


def test_templates_and_tokenizers_are_told_line_by_line_and_token_by_token(packages: tuple[Path, Path]) -> None:
    merges = [["a", "b"], ["ab", "c"]]
    ours = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": merges}, "added_tokens": []}
    added = [{"id": 2, "content": "<|end|>"}]
    theirs = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 3}, "merges": merges[:1]}, "added_tokens": added}
    theirs["normalizer"] = {"type": "NFC"}
    add_files(packages[0], tokenizer__json=json.dumps(ours), chat_template__jinja="one\ntwo\n")
    add_files(packages[1], tokenizer__json=json.dumps(theirs), chat_template__jinja="one\nthree\n")
    found = [one for one in found_between(packages).differences if one.section != "files"]
    assert found == [
        Difference("template", "line", "'two'", ""),
        Difference("template", "line", "", "'three'"),
        Difference("tokenizer", "token 'b'", "id 1", "id 3"),
        Difference("tokenizer", "token '<|end|>'", "", "id 2"),
        Difference("tokenizer", "merges", "['ab', 'c'] at rank 1 of 2", ""),
        Difference("tokenizer", "normalizer", "", '{"type":"NFC"}'),
    ]


def test_each_section_is_shown_once(packages: tuple[Path, Path]) -> None:
    """Also the package's own, whose fields stand before and after the quality in the manifest."""
    quality = Quality("t", 9, 0.25, 0.5, 0.75, 20.0, 19.5, 0.02)
    rewrite(packages[1], served_names=("a",), quality=quality, recipe_digest="1" * 64)
    said = CliRunner().invoke(diff_command, list(map(str, packages))).output
    headings = [line for line in said.splitlines()[1:-1] if not line.startswith(" ")]
    assert headings == ["package", "quality"]
    assert "recipe_digest" in said


def test_the_command_ends_as_diff_does(packages: tuple[Path, Path]) -> None:
    rewrite(packages[1], max_model_len=32)
    words = list(map(str, packages))
    differ = CliRunner().invoke(diff_command, words)
    assert differ.exit_code == 3
    assert "max_model_len: 64 -> 32" in differ.output
    as_json = json.loads(CliRunner().invoke(diff_command, [*words, "--json"]).output)
    assert as_json["differences"] == [{"section": "package", "what": "max_model_len", "a": "64", "b": "32"}]
    (packages[1] / "ort" / "model.onnx").write_bytes(b"")
    refused = CliRunner().invoke(diff_command, words)
    assert refused.exit_code == 1
    assert "model.onnx" in refused.output
