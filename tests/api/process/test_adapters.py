"""A server's start with adapters over a package that was really exported, in the precision that moves factors."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from api.process import launch
from api.server_settings import Settings
from export.measure import gauge
from export.package.builder import build_package
from export.progress import SilentReporter
from export.source.recipe import FolderSource, LoraRoom, QualityLimits, Recipe
from runtime.adapters.factors import read_factors
from runtime.adapters.fitted import fitted
from runtime.adapters.peft import read_adapter
from runtime.loading.model_loader import adapter_room
from runtime.package.generation_config import GenerationConfig
from runtime.package.manifest import load_package
from tests.adapter_folders import modules_of, random_pairs, write_adapter
from tests.export.tiny_models import tiny_config, tiny_input_ids, tiny_tensors, write_tiny_folder


def test_adapters_are_served_with_the_factors_of_their_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = write_adapter(tmp_path / "mine", random_pairs(modules_of(tiny_tensors(tiny_config("llama"))), 4, seed=1))
    recipe = Recipe(
        name="tiny",
        source=FolderSource(path=str(write_tiny_folder(tmp_path / "hf", "llama"))),
        precision="w8a8",
        quality=QualityLimits(max_mean_kl=5.0),
        lora=LoraRoom(rank=4),
    )
    monkeypatch.setattr(gauge, "text_windows", lambda *_: [tiny_input_ids(), tiny_input_ids(40)])
    package = load_package(build_package(recipe, tmp_path, tmp_path / "tiny", SilentReporter()).root)
    # The text side, which starts processes, is not the matter here.
    model = SimpleNamespace(names=("tiny",), base_name="tiny", max_model_len=64, defaults=GenerationConfig())
    monkeypatch.setattr(launch, "served_model_from_package", lambda _package, **_: model)
    monkeypatch.setattr(launch, "warm_up_ids", lambda _model: ())
    settings = Settings(num_slots=1, backend="cpu", lora_modules=(f"math={adapter}",))
    served = launch.build_service(settings, package).adapter_of("math")
    assert served is not None
    room = adapter_room(package)
    assert room is not None
    factors = read_factors(package, room)
    assert factors is not None
    expected, plain = (fitted(read_adapter(adapter), room, moved).matrices for moved in (factors, None))
    assert served.matrices.keys() == expected.keys()
    assert all(np.array_equal(served.matrices[name], expected[name]) for name in expected)
    assert not any(np.array_equal(served.matrices[name], plain[name]) for name in expected if name.endswith("qkv.a"))
