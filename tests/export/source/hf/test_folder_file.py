"""Links in a folder: what they point at may be anything on this machine, and would be read into the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from export.errors import SourceError
from export.package.optimum import build_optimum_package
from export.progress import SilentReporter
from export.source.hf.text import text_files_from_folder
from export.source.opener import OpenedSource, open_source
from export.source.recipe import FolderSource, Recipe
from tests.export.tiny_models import VOCAB, write_tiny_folder

TEXTS = {
    "config.json": "{}",
    "tokenizer.json": "{}",
    "tokenizer_config.json": "{}",
    "special_tokens_map.json": "{}",
    "generation_config.json": "{}",
    "chat_template.jinja": "secret",
    "LICENSE": "secret",
    "LICENSE.md": "secret",
}


def opened(folder: Path) -> OpenedSource:
    recipe = Recipe(name="tiny", source=FolderSource(path=str(folder)))
    source = open_source(recipe, folder.parent, SilentReporter())
    source.checkpoint.text_files()
    return source


def link(folder: Path, name: str, target: Path) -> None:
    """The file, or a new one of that name, moved to ``target`` and linked to."""
    path = folder / name
    target.write_bytes(path.read_bytes() if path.exists() else TEXTS[name].encode())
    path.unlink(missing_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_file_that_is_a_link_is_refused_and_the_hub_cache_is_not(name: str, tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path / "repo" / "snapshots" / "abc", "llama")
    link(folder, name, tmp_path / "elsewhere")
    with pytest.raises(SourceError, match=rf"'{name}' is a link out of the folder"):
        opened(folder)
    if not name.startswith("LICENSE"):
        with pytest.raises(SourceError, match=rf"'{name}' is a link out of the folder"):
            text_files_from_folder(folder, VOCAB)
    (tmp_path / "repo" / "blobs").mkdir()
    link(folder, name, tmp_path / "repo" / "blobs" / "0123")
    source = opened(folder)
    assert source.license_text == ("secret" if name.startswith("LICENSE") else None)


def test_a_licence_of_the_folder_s_own_is_read(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path / "hf", "llama")
    (folder / "TERMS").write_text("Do as you like.")
    (folder / "LICENSE").symlink_to("TERMS")
    assert opened(folder).license_text == "Do as you like."


def test_a_template_that_is_no_text_is_one_error(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path / "hf", "llama")
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(SourceError, match=r"chat_template\.jinja cannot be read"):
        opened(folder)


def test_optimum_gets_no_linked_file(tmp_path: Path) -> None:
    """Not even weights: its exporter would open whatever they point at."""
    folder = write_tiny_folder(tmp_path / "hf", "llama")
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 0\n")
    python.chmod(0o755)
    link(folder, "model.safetensors", tmp_path / "elsewhere")
    recipe = Recipe(name="tiny", source=FolderSource(path=str(folder)))
    with pytest.raises(SourceError, match=r"'model.safetensors' is a link out of the folder"):
        build_optimum_package(recipe, tmp_path, tmp_path / "out", SilentReporter(), str(python))
    assert json.loads((folder / "config.json").read_text())
