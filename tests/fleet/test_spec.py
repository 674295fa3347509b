"""What settings and packages make of a fleet, and what the front knows of its packages. Values alone; no Ray."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fleet.plan.spec as plan
import powertrain_ray
from api.errors import SettingsError
from api.server_settings import Settings
from fleet.errors import FleetError
from fleet.plan.spec import FleetSpec, fleet_spec
from fleet.relay.packages import FleetPackage, Packages
from runtime.defaults import DEFAULT_SLOTS

pytestmark = pytest.mark.usefixtures("named_packages")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Twelve cores, and as many GPUs as a test says."""
    has = {"gpus": 0}
    monkeypatch.setattr(plan, "default_threads", lambda: 12)
    monkeypatch.setattr(plan, "find_gpus", lambda: SimpleNamespace(gpus=["gpu"] * has["gpus"]))
    return has


def spec(*names: str, on_loopback: bool = False, **settings: Any) -> FleetSpec:
    folders = [Path("/models") / name for name in names or ("one",)]
    return fleet_spec(Settings(**settings), folders, on_loopback=on_loopback)


def test_a_fleet_of_what_is_not_said() -> None:
    made = spec()
    assert (made.min_replicas, made.max_replicas, made.threads, made.num_gpus) == (1, 1, 12, 0)
    assert (made.busy_at, made.num_resident, made.generation, made.on_loopback) == (DEFAULT_SLOTS, 1, 0, False)
    assert made.max_ongoing == DEFAULT_SLOTS + 256
    assert made.engine_settings.kv_cache_share == pytest.approx(0.4)
    assert made.packages == (
        FleetPackage(names=("one",), folder=Path("/models/one"), created_unix=5, max_model_len=64),
    )


def test_cores_and_memory_are_shared_out_among_the_most_replicas() -> None:
    made = spec("one", "two", replicas=2, max_replicas=3, resident_models=2, num_slots=5, max_queue=7)
    assert (made.min_replicas, made.max_replicas, made.threads, made.num_resident) == (2, 3, 4, 2)
    assert (made.busy_at, made.max_ongoing) == (5, 12)
    assert made.engine_settings.threads == 4
    assert made.engine_settings.kv_cache_share == pytest.approx(0.4 / 6)
    assert made.folders == {"one": Path("/models/one"), "two": Path("/models/two")}
    assert spec(replicas=20).threads == 1
    assert spec(replicas=2, threads=9).threads == 9
    assert spec(replicas=2, kv_cache_share=0.6).engine_settings.kv_cache_share == pytest.approx(0.3)
    assert spec("one", resident_models=4).num_resident == 1
    assert spec(max_replicas=3).min_replicas == 1


def test_a_gpu_is_each_replicas_own(machine: dict[str, int]) -> None:
    machine["gpus"] = 3
    made = spec("one", "two", replicas=3, resident_models=2, on_loopback=True)
    assert (made.num_gpus, made.threads) == (1, 12)
    assert made.engine_settings.kv_cache_share == pytest.approx(0.4)  # of 0.8, for two packages on one GPU
    assert spec(backend="cpu").num_gpus == 0
    told = r"^4 replicas take a GPU each and CUDA shows 3 here; ask for 3, or for --backend cpu$"
    with pytest.raises(FleetError, match=told):
        spec(replicas=2, max_replicas=4, on_loopback=True)
    assert spec(replicas=4).num_gpus == 1  # a cluster of others may have more machines
    machine["gpus"] = 0
    with pytest.raises(FleetError, match="backend cuda needs a GPU"):
        spec(backend="cuda")


def test_a_replica_has_no_keys_and_refuses_nobody_that_the_front_let_in() -> None:
    asked = Settings(
        api_key=("a=secret-of-a",),
        cors_allow_origin=("https://a.example",),
        allowed_host=("a.example",),
        more_models=("two",),
        replicas=2,
        max_replicas=3,
        max_queue_time_s=4.0,
        root_path="/x",
    )
    own = fleet_spec(asked, [Path("one"), Path("two")]).engine_settings
    assert own.kv_cache_share == pytest.approx(0.4 / 3)
    assert own == dataclasses.replace(
        asked,
        api_key=(),
        cors_allow_origin=(),
        allowed_host=("*",),
        allow_public_without_key=True,
        more_models=(),
        replicas=None,
        max_replicas=None,
        threads=4,
        kv_cache_share=own.kv_cache_share,
    )
    secrets = Settings(tls_cert="c", tls_key="k", keys_file=None, replicas=2)
    own = fleet_spec(secrets, [Path("one")]).engine_settings
    assert (own.tls_cert, own.tls_key, own.keys_file, own.api_key_file) == (None, None, None, None)


def test_keys_that_are_unusable_are_said_before_ray_starts(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"keys_file: .*none\.toml"):
        spec(keys_file=str(tmp_path / "none.toml"))
    key = tmp_path / "key"
    key.write_text("secret-of-somebody\n")
    key.chmod(0o600)
    assert spec(api_key_file=str(key)).engine_settings.api_key_file is None
    key.write_text(f'[[key]]\nname = "a"\nsha256 = "{"0" * 64}"\n')
    assert spec(keys_file=str(key)).engine_settings.keys_file is None


def test_a_context_that_is_asked_for_is_no_longer_than_the_packages() -> None:
    assert [spec(max_model_len=most).packages[0].max_model_len for most in (32, 64, 100)] == [32, 64, 64]
    assert spec(served_model_name=("x", "y")).packages[0].names == ("x", "y")


def test_a_folder_is_found_from_every_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert fleet_spec(Settings(), [Path("one")]).packages[0].folder == tmp_path.resolve() / "one"


def test_a_name_is_one_packages() -> None:
    one, two = (
        FleetPackage(names=names, folder=Path("x"), created_unix=1, max_model_len=length)
        for names, length in ((("a", "b"), 8), (("c",), 9))
    )
    packages = Packages([one, two])
    assert (len(packages), packages.max_model_len) == (2, 9)
    assert [packages.base_name(name) for name in ("a", "b", "c", None, "nobody")] == ["a", "a", "c", "a", "a"]
    told = [(card.id, card.root, card.max_model_len, card.created) for card in packages.listing().data]
    assert told == [("a", "a", 8, 1), ("b", "a", 8, 1), ("c", "c", 9, 1)]
    with pytest.raises(SettingsError, match="two packages are served as 'b'"):
        Packages([one, dataclasses.replace(two, names=("c", "b"))])
    with pytest.raises(SettingsError, match="two packages are served as 'one'"):
        spec("one", "one")


def test_rays_own_command_takes_settings_as_words_and_as_environment(
    on_doubles: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("POWERTRAIN_RAY_PYTHON", raising=False)  # the tests', and no setting
    monkeypatch.setenv("POWERTRAIN_NUM_SLOTS", "3")
    monkeypatch.setenv("POWERTRAIN_HOME", str(tmp_path))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    words = {"model": str(tmp_path / "one"), "more_models": str(tmp_path / "two"), "replicas": "4", "backend": "cpu"}
    made = powertrain_ray.app(words).given[1]
    assert (made.min_replicas, made.busy_at, made.threads, made.on_loopback) == (4, 3, 3, False)
    assert [package.folder.name for package in made.packages] == ["one", "two"]
    (tmp_path / "two" / "manifest.json").unlink()
    (tmp_path / "two").rmdir()
    assert powertrain_ray.app({}).given[1].packages[0].folder.name == "one"
