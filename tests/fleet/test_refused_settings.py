"""What one server has and a fleet has not is refused by name before a package is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from api.errors import SettingsError
from api.server_settings import Settings
from fleet.plan.spec import fleet_spec


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"allow_runtime_lora_updating": True},
            "allow_runtime_lora_updating is set together with replicas: a fleet has",
        ),
        ({"lora_source": "adapters"}, "lora_source is set together with replicas"),
        ({"admin_key": ("secret",)}, "admin_key is set together with replicas: a replica loads what is asked for"),
        ({"trusted_proxy": ("10.0.0.1",)}, "trusted_proxy is set together with replicas: Ray's proxy takes"),
        ({"management_port": 9000}, "management_port is set together with replicas: a fleet has one port"),
        ({"management_port": 0}, "management_port is set together with replicas: a fleet has one port"),
        ({"gpu": "GPU-0"}, "gpu is set together with replicas: Ray gives each replica a GPU of its own"),
        ({"memory_bytes": 1}, "memory_bytes is set together with replicas: say with resident_models"),
        ({"model_setting": ("b:num_slots=1",)}, "model_setting is set together with replicas: all packages of a fleet"),
        ({"admin_key_file": "key"}, "admin_key_file is set together with replicas: a replica loads what is asked for"),
        ({"lora_modules": ("a=b",)}, "lora_modules is set together with replicas: a fleet's list of models has no"),
        ({"load_models": "demand"}, "load_models is set together with replicas"),
        ({"served_model_name": ("x",)}, "served_model_name names one package, and several are served"),
    ],
)
def test_what_a_fleet_has_not_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        fleet_spec(Settings(model="a", more_models=("b",), replicas=2, **given), [Path("a"), Path("b")])
