"""Which value counts where a request names none: the operator's, the package's, OpenAI's; and that named ones win."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api import served_model
from api.served_model import ServedModel, served_model_from_package
from api.server_settings import Settings
from api.settings_rules import check_settings
from runtime.package.generation_config import GenerationConfig
from runtime.package.manifest import load_package
from tests.api.programs import tokenizer_json
from tests.api.scripted_server import RunningServer, running_server, user
from tests.runtime.package.made import make_package
from tests.security.test_d_packages import edit_manifest

PACKAGE = {"temperature": 0.6, "top_p": 0.95, "top_k": 50, "max_new_tokens": 77, "eos_token_id": 2}


def served(tmp_path: Path, digest: str = "0" * 64, **settings: Any) -> ServedModel:
    """A served package that holds ``PACKAGE`` and files of that digest; closed already."""
    root = make_package(tmp_path / "tiny")
    (root / "tokenizer.json").write_bytes(tokenizer_json())
    (root / "chat_template.jinja").write_text("x")
    (root / "generation_config.json").write_text(json.dumps(PACKAGE))
    names = ("tokenizer.json", "ort/model.onnx", "chat_template.jinja", "generation_config.json")
    edit_manifest(root, "files", {one: {"size": (root / one).stat().st_size, "sha256": digest} for one in names})
    edit_manifest(root, "shape.vocab_size", 512)
    chosen = Settings(**settings)
    check_settings(chosen)
    model = served_model_from_package(load_package(root, verify_digests=False), settings=chosen, max_model_len=32)
    model.close()
    return model


def resolved(tmp_path: Path, **settings: Any) -> GenerationConfig:
    """The defaults of a served package that holds ``PACKAGE``."""
    return served(tmp_path, **settings).defaults


def test_a_fingerprint_changes_with_the_package_s_files_and_the_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, same, other = (served(tmp_path / name, digest * 64).fingerprint for name, digest in ("a0", "b0", "c1"))
    assert re.fullmatch(r"fp_[0-9a-f]{10}", first)
    assert first == same != other
    monkeypatch.setattr(served_model, "version", lambda _name: "9.9.9")
    assert served(tmp_path / "d", "0" * 64).fingerprint not in {first, other}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"temperature": 0.6, "top_p": 0.95, "top_k": 50}),
        (
            {"default_temperature": 0.0, "default_min_p": 0.1},
            {"temperature": 0.0, "top_p": 0.95, "top_k": 50, "min_p": 0.1},
        ),
        ({"package_sampling_defaults": False}, {}),
        ({"package_sampling_defaults": False, "default_top_p": 0.5}, {"top_p": 0.5}),
    ],
)
def test_the_operator_then_the_package(tmp_path: Path, settings: dict[str, Any], expected: dict[str, float]) -> None:
    found = resolved(tmp_path, **settings)
    assert found.given() == expected
    assert found.max_new_tokens == 77


def letters(server: RunningServer, path: str, **fields: Any) -> set[str]:
    """Of an answer drawn from letters that are all equally likely: the first of them is the most likely."""
    asked: dict[str, Any] = {"prompt": "?\n"}
    if path != "/v1/completions":
        asked = {"messages": [user("?")]}
    choice = server.post({**asked, "max_tokens": 40, "seed": 4, **fields}, path).json()["choices"][0]
    return set(choice["text"] if "text" in choice else choice["message"]["content"])


@pytest.fixture(scope="module")
def cold_server() -> Iterator[RunningServer]:
    with running_server(defaults=GenerationConfig(temperature=0.0, top_k=2)) as server:
        yield server


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_requests_win_value_by_value(cold_server: RunningServer, path: str) -> None:
    assert letters(cold_server, path) == {"a"}
    assert letters(cold_server, path, temperature=None) == {"a"}
    assert letters(cold_server, path, temperature=1) == {"a", "b"}
    assert len(letters(cold_server, path, temperature=1, top_k=0)) > 5
