"""A package with wrong numbers, names or nesting ends in one clear error as it is loaded, in little memory.

Repeats the causes of llama.cpp's CVE-2024-23605 and CVE-2025-53630: counts and sizes of a model file are believed, and
what is computed of them overflows.
"""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from api.served_model import served_model_from_package
from api.server_settings import Settings
from runtime.errors import PackageError, PlanError
from runtime.package.limits import MAX_TOKENIZER_BYTES
from runtime.package.manifest import load_package
from runtime.package.package_file import file_info
from runtime.package.plan_sidecar import read_sidecar, sidecar_path
from tests.api.programs import tokenizer_json
from tests.runtime.package.made import make_package

PEAK_BYTES = 64 * 2**20
DEEP = "[" * 400_000 + "]" * 400_000


@pytest.fixture(autouse=True)
def memory_stays_small() -> Iterator[None]:
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < PEAK_BYTES


def edit_manifest(root: Path, path: str, value: Any) -> None:
    """Set one place of the manifest, ``a.b.c``."""
    file = root / "manifest.json"
    document = json.loads(file.read_text())
    place = document
    *parents, last = path.split(".")
    for key in parents:
        place = place[key]
    place[last] = value
    file.write_text(json.dumps(document))


def error_of(root: Path) -> str:
    with pytest.raises(PackageError) as caught:
        load_package(root)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 700
    return text


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("name", "x" * 5000),
        ("name", ""),
        ("served_names", ["x" * 5000]),
        ("architecture", 7),
        ("shape.num_layers", 0),
        ("shape.num_layers", 10**9),
        ("shape.num_kv_heads", 0),
        ("shape.head_dim", -1),
        ("shape.vocab_size", 10**9),
        ("shape.vocab_size", 0),
        ("max_model_len", 0),
        ("max_model_len", 2**63),
        ("max_model_len", 1e308),
        ("stop_token_ids", [-1]),
        ("special_tokens", {"bos_token": "x" * 5000}),
        ("files", {"tokenizer.json": {"size": -1, "sha256": "0" * 64}}),
        ("files", {"tokenizer.json": {"size": 2, "sha256": "../../x"}}),
        ("graphs", {"ort": {"path": "ort/model.onnx", "kv_dtype": "object", "providers": ["cpu"],
                            "precision": {}, "weight_bytes": 1, "num_nodes": 1}}),
        ("build_seconds", -1.0),
        ("created_unix", -5),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_numbers_and_names_outside_their_bounds(tmp_path: Path, path: str, value: Any) -> None:
    root = make_package(tmp_path / "tiny")
    edit_manifest(root, path, value)
    text = error_of(root)
    assert "manifest.json is not readable" in text
    assert f"$.{path.partition('.')[0]}" in text


def test_a_stop_token_beyond_the_vocabulary(tmp_path: Path) -> None:
    assert "stop_token_ids holds 16, the vocabulary has 16" in error_of(
        make_package(tmp_path / "t", stop_token_ids=(16,))
    )


@pytest.mark.parametrize("place", ["spec", "surprise"])
def test_deep_nesting_in_the_manifest(tmp_path: Path, place: str) -> None:
    root = make_package(tmp_path / "tiny")
    text = (root / "manifest.json").read_text()
    nested = text.replace('"spec": {}', f'"spec": {{"x": {DEEP}}}') if place == "spec" else f'{{"surprise": {DEEP}}}'
    (root / "manifest.json").write_text(nested)
    assert "not readable" in error_of(root)


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xfe", b"null", b"[]", b"{" * 1000, b'{"schema_version": 1e400}', b"\0" * 99]
)
def test_what_is_no_manifest(tmp_path: Path, data: bytes) -> None:
    root = make_package(tmp_path / "tiny")
    (root / "manifest.json").write_bytes(data)
    assert "not readable" in error_of(root)


def test_an_unknown_field_with_a_huge_name_is_shortened(tmp_path: Path) -> None:
    root = make_package(tmp_path / "tiny")
    edit_manifest(root, "x" * 100_000, 1)
    assert "unknown field" in error_of(root)


def test_a_huge_manifest_is_not_read(tmp_path: Path) -> None:
    root = make_package(tmp_path / "tiny")
    with (root / "manifest.json").open("r+b") as file:
        file.truncate(2**40)
    assert "larger than" in error_of(root)


def serve(tmp_path: Path, name: str, write: Callable[[Path], object]) -> None:
    """Load a package whose file ``name`` was replaced, as the server does."""
    root = make_package(tmp_path / "tiny")
    (root / "tokenizer.json").write_bytes(tokenizer_json())
    (root / "chat_template.jinja").write_text("x")
    write(root / name)
    names = ("tokenizer.json", "ort/model.onnx", "chat_template.jinja", name)
    digests = {one: {"size": (root / one).stat().st_size, "sha256": "0" * 64} for one in names}
    edit_manifest(root, "files", digests)
    edit_manifest(root, "shape.vocab_size", 512)
    package = load_package(root, verify_digests=False)
    served_model_from_package(package, settings=Settings(), max_model_len=32)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1), ("temperature", 2.5), ("top_p", 2), ("top_p", 0), ("top_k", -2), ("min_p", 1.5),
        ("repetition_penalty", 0), ("max_new_tokens", 0), ("eos_token_id", 512), ("eos_token_id", [2, 10**9]),
        ("eos_token_id", -1), ("temperature", "hot"), ("temperature", True),
    ],
)  # fmt: skip
def test_generation_defaults_outside_a_requests_ranges(tmp_path: Path, field: str, value: Any) -> None:
    with pytest.raises(PackageError, match=rf"generation_config.json.*{field}"):
        serve(tmp_path, "generation_config.json", lambda path: path.write_text(json.dumps({field: value})))


def test_usual_generation_defaults_are_taken(tmp_path: Path) -> None:
    usual = {"temperature": 0.6, "top_p": 0.95, "top_k": 50, "eos_token_id": [2, 3], "do_sample": True, "min_p": None}
    serve(tmp_path, "generation_config.json", lambda path: path.write_text(json.dumps(usual)))


def nested_tokenizer() -> bytes:
    return tokenizer_json().replace(b'"normalizer":null', b'"normalizer":' + DEEP.encode())


def tokenizer_with_a_far_id() -> bytes:
    return tokenizer_json().replace(b'"hello":260', b'"hello":4000000000')


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("generation_config.json", b'{"x":' + DEEP.encode() + b"}"),
        ("generation_config.json", b"\xff"),
        ("chat_template.jinja", b"\xff\xfe"),
        ("LICENSE", b"\xff\xfe"),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"\xff"),
        ("tokenizer.json", nested_tokenizer()),
        ("tokenizer.json", tokenizer_with_a_far_id()),
        ("tokenizer.json", b'{"decoder":' + DEEP.encode() + b"}"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_text_files_that_cannot_be_used(tmp_path: Path, name: str, data: bytes) -> None:
    with pytest.raises(PackageError) as caught:
        serve(tmp_path, name, lambda path: path.write_bytes(data))
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("name", ["tokenizer.json", "generation_config.json", "chat_template.jinja", "LICENSE"])
def test_text_files_that_are_too_large_are_not_read(tmp_path: Path, name: str) -> None:
    def grow(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(MAX_TOKENIZER_BYTES + 1)

    with pytest.raises(PackageError, match=rf"{name} has \d+ bytes, more than the \d+ it may have"):
        serve(tmp_path, name, grow)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{}", b"\xff", b'{"key":' + DEEP.encode() + b"}", b'{"schema_version":' + b"9" * 5000 + b"}",
        b'{"schema_version":4,"key":{"library":"' + b"x" * 5000 + b'"}}',
    ],
    ids=lambda value: str(value)[:24],
)  # fmt: skip
def test_a_plan_sidecar_that_cannot_be_used(tmp_path: Path, data: bytes) -> None:
    root = make_package(tmp_path / "tiny")
    plan = root / "trt" / "sm89.plan"
    plan.parent.mkdir()
    plan.write_bytes(b"plan")
    sidecar_path(plan).write_bytes(data)
    with pytest.raises(PlanError, match="is not readable") as caught:
        read_sidecar(root, "sm89")
    assert len(str(caught.value)) < 700


def test_the_digests_of_a_whole_package_still_match(tmp_path: Path) -> None:
    root = make_package(tmp_path / "tiny")
    assert load_package(root).manifest.files["tokenizer.json"] == file_info(root / "tokenizer.json")
