"""What all tests of adapters look at, built once."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from export.source.recipe import LoraRoom
from tests.export.graph.adapted import RANK, built, recipe_of, tiny_adapter
from tests.export.tiny_models import write_tiny_folder


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint, ``hf``, two adapters for it, ``one`` and ``two``, and packages in int8."""
    root = tmp_path_factory.mktemp("adapters")
    write_tiny_folder(root / "hf", "llama")
    tiny_adapter(root / "one", "llama", seed=1)
    tiny_adapter(root / "two", "llama", seed=2)
    recipe = recipe_of(root / "hf", precision="int8")
    built(recipe, root / "plain")
    built(msgspec.structs.replace(recipe, lora=LoraRoom(rank=RANK)), root / "room")
    built(msgspec.structs.replace(recipe, adapter="../one"), root / "merged")
    return root
