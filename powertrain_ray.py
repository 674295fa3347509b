"""The fleet as an application for Ray's own command: ``serve run powertrain_ray:app``.

Settings come from the environment (``POWERTRAIN_*``), and from arguments behind the word: ``serve run
powertrain_ray:app model=models/mine replicas=2``. Host, port and TLS are then Ray's own options, and a
certificate among ours is refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.serve.deployment import Application

# Before ray or ONNX Runtime are first imported by us; who starts ray first sets these for it.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def app(arguments: Mapping[str, str]) -> Application:
    """The application of the settings in ``arguments`` and the environment. Raises PowertrainError."""
    from api.errors import SettingsError
    from api.settings import models_home, resolve_settings

    settings = resolve_settings(dict(arguments)).settings
    if settings.tls_cert is not None:
        raise SettingsError("tls_cert: the proxy is Ray's here, and so is its certificate; leave it out")

    from fleet.on_ray.deployments import fleet_application
    from fleet.plan.spec import fleet_spec
    from runtime.package.home import find_package, only_package

    home = models_home()
    first = only_package(home) if settings.model is None else find_package(settings.model, home)
    return fleet_application(
        fleet_spec(settings, [first, *(find_package(model, home) for model in settings.more_models)])
    )
