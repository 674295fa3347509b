"""Settings -> what a fleet consists of: its packages, its number of replicas, what each replica may take.

Values only; reads the packages' manifests, no weights. Knows no ray.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from api.edge.keys import key_ring
from api.errors import SettingsError
from api.server_settings import Settings
from runtime.defaults import DEFAULT_SLOTS
from runtime.loading.gpu import find_gpus
from runtime.loading.model_loader import default_threads
from runtime.package.manifest import load_package

from fleet.errors import FleetError
from fleet.relay.packages import FleetPackage, Packages

_CPU_KV_SHARE = 0.4
_GPU_KV_SHARE = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSpec:
    """A fleet. ``engine_settings`` are a replica's own: without keys, which the front checks.

    ``threads`` are those of each replica's arithmetic, ``num_gpus`` 0 or 1. ``busy_at`` is the number of requests from
    which a conversation may leave its replica. ``num_resident`` packages fit a replica at once. A spec of another
    ``generation`` is another fleet, whatever else is the same: deployed, it replaces every replica.
    ``on_loopback`` says that it has a cluster of this machine alone.
    """

    settings: Settings
    engine_settings: Settings
    packages: tuple[FleetPackage, ...]
    min_replicas: int
    max_replicas: int
    threads: int
    num_gpus: int
    busy_at: int
    num_resident: int
    generation: int = 0
    on_loopback: bool = False

    @property
    def max_ongoing(self) -> int:
        """Requests that a replica is sent at once: its slots' and its queue's, beyond which it would only refuse."""
        return self.busy_at + self.settings.max_queue

    @property
    def folders(self) -> dict[str, Path]:
        """Each package's folder by its base name."""
        return {package.names[0]: package.folder for package in self.packages}


def fleet_spec(
    settings: Settings, folders: Sequence[Path], *, on_loopback: bool = False, generation: int = 0
) -> FleetSpec:
    """The fleet that settings ask for, with the packages in ``folders``, the first loaded at the start.

    Raises SettingsError for settings that a fleet cannot keep and for unusable keys, FleetError without a GPU where one
    is asked for, and with ``on_loopback`` for fewer GPUs than replicas, and PackageError for an unusable package.
    """
    least, most = settings.replicas or 1, settings.max_replicas or settings.replicas or 1
    _check(settings, len(folders))
    key_ring(settings)  # the front reads it again; there Ray would try for long, and say nothing of why
    num_gpus = _num_gpus(settings, most if on_loopback else 1)
    num_resident = min(settings.resident_models, len(folders))
    threads = settings.threads or max(1, default_threads() // (1 if num_gpus else most))
    share = settings.kv_cache_share or (_GPU_KV_SHARE if num_gpus else _CPU_KV_SHARE)
    packages = tuple(_package(settings, folder) for folder in folders)
    Packages(packages)
    engine_settings = dataclasses.replace(
        settings,
        api_key=(),
        api_key_file=None,
        keys_file=None,
        tls_cert=None,
        tls_key=None,
        cors_allow_origin=(),
        allowed_host=("*",),
        allow_public_without_key=True,
        more_models=(),
        replicas=None,
        max_replicas=None,
        threads=threads,
        kv_cache_share=share / (num_resident if num_gpus else num_resident * most),
    )
    return FleetSpec(
        settings=settings,
        engine_settings=engine_settings,
        packages=packages,
        min_replicas=least,
        max_replicas=most,
        threads=threads,
        num_gpus=num_gpus,
        busy_at=settings.num_slots or DEFAULT_SLOTS,
        num_resident=num_resident,
        generation=generation,
        on_loopback=on_loopback,
    )


def _check(settings: Settings, num_packages: int) -> None:
    """Raise SettingsError for what one server has and a fleet's proxy has not."""
    for name, why in {
        "management_port": "a fleet has one port; its health and metrics are there",
        "trusted_proxy": "Ray's proxy takes X-Forwarded-For from nobody",
        "gpu": "Ray gives each replica a GPU of its own",
        "admin_key": "a replica loads what is asked for",
        "admin_key_file": "a replica loads what is asked for",
        "model_setting": "all packages of a fleet have the same settings",
        "memory_bytes": "say with resident_models how many packages a replica holds",
        "lora_modules": "a fleet's list of models has no adapters; merge them with 'powertrain export --adapter'",
        "allow_runtime_lora_updating": "a fleet has no adapters; merge them with 'powertrain export --adapter'",
        "lora_source": "a fleet's list of models has no adapters; merge them with 'powertrain export --adapter'",
    }.items():
        value = getattr(settings, name)
        if value is not None and value is not False and value != ():
            raise SettingsError(f"{name} is set together with replicas: {why}; leave it out")
    if settings.load_models != "start":
        raise SettingsError("load_models is set together with replicas, which load what is asked for; leave it out")
    if settings.served_model_name and num_packages > 1:
        raise SettingsError("served_model_name names one package, and several are served; leave it out")


def _num_gpus(settings: Settings, wanted: int) -> int:
    """GPUs of each replica. ``wanted`` of them must be here: Ray would wait for more without end."""
    if settings.backend == "cpu":
        return 0
    found = len(find_gpus().gpus)
    if not found and settings.backend != "auto":
        raise FleetError(f"backend {settings.backend} needs a GPU and CUDA shows none here; leave --backend out")
    if 0 < found < wanted:
        raise FleetError(
            f"{wanted} replicas take a GPU each and CUDA shows {found} here; ask for {found}, or for --backend cpu"
        )
    return min(found, 1)


def _package(settings: Settings, folder: Path) -> FleetPackage:
    manifest = load_package(folder).manifest
    longest = manifest.max_model_len
    return FleetPackage(
        names=settings.served_model_name or manifest.served_names or (manifest.name,),
        folder=folder.resolve(),
        created_unix=manifest.created_unix,
        max_model_len=min(longest, settings.max_model_len or longest),
    )
