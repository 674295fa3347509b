"""From the settings of several models to what each is granted, called and opened by. Their text sides are scripted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from api.controllers.registry import ModelRegistry
from api.errors import SettingsError
from api.process import several
from api.served_model import ServedModel
from api.server_settings import Settings
from api.settings_rules import check_settings
from runtime.engine.config import EngineConfig
from runtime.errors import PackageError
from runtime.package.manifest import MANIFEST_FILE, Package, load_package
from runtime.session.kv_budget import kv_bytes_per_token
from runtime.session.session import Session
from tests.api.scripted_server import scripted_model
from tests.export.tiny_package import write_package

WEIGHTS = 1000  # that the tiny package says it has
LENGTH = 64


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packages ``a`` and ``b``, the same but for their names."""
    folder = tmp_path_factory.mktemp("home")
    write_package(folder / "a", with_trt=False, max_model_len=LENGTH)
    shutil.copytree(folder / "a", folder / "b")
    rename(folder / "b", "b")
    return folder


def rename(folder: Path, name: str) -> None:
    path = folder / MANIFEST_FILE
    document = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode(document | {"name": name, "served_names": [name]}))


@pytest.fixture(autouse=True)
def _text_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    def served_model(settings: Settings, package: Package, max_model_len: int) -> ServedModel:
        names = settings.served_model_name or package.manifest.served_names
        return scripted_model(replace(settings, served_model_name=names), max_model_len=max_model_len)

    monkeypatch.setattr(several, "served_model", served_model)


@pytest.fixture
def build(home: Path) -> Callable[..., ModelRegistry]:
    def built(*own: str, words: tuple[str, ...] = ("a", "b"), folder: Path = home, **settings: Any) -> ModelRegistry:
        chosen = Settings(model=words[0], more_models=words[1:], model_setting=own, backend="cpu", **settings)
        check_settings(chosen)
        return several.build_registry(chosen, [(word, folder / word) for word in words])

    return built


@pytest.fixture(scope="module")
def slot(home: Path) -> int:
    """Bytes of a slot of full length."""
    return LENGTH * kv_bytes_per_token(load_package(home / "a").manifest.shape, 4)


def caches(registry: ModelRegistry) -> dict[str, int]:
    return {model.name: model.need.cache_bytes for model in registry.models}


def test_memory_is_shared_and_what_was_asked_for_is_granted_as_it_is(
    build: Callable[..., ModelRegistry], slot: int
) -> None:
    budget = 2 * WEIGHTS + 7 * slot
    assert caches(build(memory_bytes=budget)) == {"a": 3 * slot, "b": 3 * slot}  # of 3.5 slots each
    shorter = build("a:num_slots=2", "a:max_model_len=32", memory_bytes=budget)
    assert caches(shorter) == {"a": slot, "b": 6 * slot}
    assert shorter.models[0].service.model.max_model_len == 32
    assert caches(build(f"b:kv_cache_bytes={slot}", memory_bytes=budget)) == {"a": 6 * slot, "b": slot}
    # Not both at once: each gets what it has by itself, and one makes room for the other.
    tight = build(memory_bytes=WEIGHTS + slot)
    assert caches(tight) == {"a": slot, "b": slot}
    assert tight.models[1].need.fixed_bytes == WEIGHTS
    assert tight.budgets == {"cpu": WEIGHTS + slot}


def test_what_does_not_fit_is_refused_with_the_arithmetic_and_the_others_are_served(
    build: Callable[..., ModelRegistry], slot: int
) -> None:
    budget = WEIGHTS + slot
    registry = build("a:num_slots=3", memory_bytes=budget)
    reason = registry.models[0].reason
    assert reason is not None
    assert f"{3 * slot:,} bytes, the budget is {slot:,}" in reason
    assert f"all models share {budget:,} bytes, its weights take {WEIGHTS:,}" in reason
    assert [model.state.value for model in registry.models] == ["failed", "unloaded"]
    assert registry.front is registry.models[1].service
    assert registry.default is registry.models[0]
    with pytest.raises(PackageError, match="none of the models can be served: a: a kv cache of"):
        build(memory_bytes=WEIGHTS)


def test_each_model_has_its_own_settings_behind_one_intake(build: Callable[..., ModelRegistry]) -> None:
    one, other = build("b:max_queue=3", "b:served_model_name=x", "b:served_model_name=y/z", max_queue=9).models
    assert (one.names, one.service.settings.max_queue) == (("a",), 9)
    assert (other.names, other.service.settings.max_queue) == (("x", "y/z"), 3)
    assert one.service.reception is other.service.reception
    assert one.service.model.guest_worker is other.service.model.guest_worker
    assert one.service.metrics.registry is other.service.metrics.registry


def test_a_damaged_package_leaves_the_others_and_two_of_one_name_serve_nobody(
    build: Callable[..., ModelRegistry], home: Path, tmp_path: Path
) -> None:
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    rename(tmp_path / "b", "a")
    with pytest.raises(SettingsError, match=r"a and b are both called a; .*--model-setting MODEL:served_model_name"):
        build(folder=tmp_path)
    next((tmp_path / "b" / "ort").iterdir()).write_bytes(b"altered")
    damaged = build(folder=tmp_path).models[1]
    assert (damaged.names, damaged.has_service) == (("b",), False)
    assert damaged.reason is not None
    assert str(tmp_path) not in damaged.reason


def test_a_package_that_has_changed_is_not_loaded_again(
    build: Callable[..., ModelRegistry],
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    openings: list[Callable[[], Session]] = []

    def note(opening: Callable[[], Session], _config: EngineConfig) -> Any:
        openings.append(opening)

    monkeypatch.setattr(several, "AsyncEngine", note)
    build(folder=tmp_path, num_slots=1)
    opening = openings[1]  # the first belongs to no model
    for _ in range(2):
        opening().close()
        next((tmp_path / "a" / "ort").iterdir()).touch()  # the same bytes: what is read again is sealed again
    rename(tmp_path / "b", "another")
    with pytest.raises(PackageError, match="the package b has changed since the server began"):
        openings[2]()  # which a request or the operator may ask for days later, for the first time
    rename(tmp_path / "a", "other")
    with pytest.raises(PackageError, match="the package a has changed since the server began"):
        opening()
