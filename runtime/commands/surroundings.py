"""What a command may ask of the whole program: where packages lie, how a missing one is built, where a server listens.

``powertrain.py`` hands it to every command as the context's object, because only that knows every room and the
environment. A command that runs without it finds the defaults. Decides nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rich_click as click

from runtime.errors import PackageError


def _default_home() -> Path:
    from runtime.package.home import default_home

    return default_home()


def _build_nothing(model: str) -> Path:
    from runtime.package.home import find_package

    return find_package(model, _default_home())


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where a server listens."""

    host: str = "127.0.0.1"
    port: int = 8000
    is_https: bool = False


def _default_address(config_file: Path | None) -> ServerAddress:
    return ServerAddress()


@dataclass(frozen=True, slots=True)
class ServerLaunch:
    """How a server of one's own is started: on a free port of this machine, with ``key`` as its only key."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    key: str = field(repr=False)


def _no_server(model: str | None) -> ServerLaunch:
    raise PackageError(f"no server can be started for {model or 'a model'} from here; call the powertrain command")


def _no_logins() -> Path | None:
    return None


def _no_key() -> str | None:
    return None


def _no_fleet(resolved: Any) -> None:  # noqa: ANN401 - the api room's settings, which this room does not know
    raise PackageError("several replicas can only be served by the powertrain command")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """``home`` is the folder of packages. ``build`` turns what a person wrote into a package's folder, built if need
    be; it raises PowertrainError when it cannot. ``address`` is where the settings in the environment and a file, if
    one is named, let a server listen; it raises PowertrainError when they do not fit. ``server`` says how a server of
    what a person wrote is started, after the same building; None is what ``serve`` takes without a MODEL.
    ``client_key`` is the key for others' servers, ``docker_config`` the file with logins of registries, if any.
    ``serve_fleet`` serves the api room's resolved settings with several replicas, until a signal ends it; it raises
    PowertrainError."""

    home: Callable[[], Path] = _default_home
    build: Callable[[str], Path] = _build_nothing
    address: Callable[[Path | None], ServerAddress] = _default_address
    server: Callable[[str | None], ServerLaunch] = _no_server
    client_key: Callable[[], str | None] = _no_key
    docker_config: Callable[[], Path | None] = _no_logins
    serve_fleet: Callable[[Any], None] = _no_fleet


def surroundings(context: click.Context | None) -> Surroundings:
    """What the outermost command was given, or the defaults."""
    found = context.find_root().obj if context is not None else None
    return found if isinstance(found, Surroundings) else Surroundings()
