"""Where settings come from. The only reader of the environment.

Precedence, highest first: command line, ``POWERTRAIN_*`` variables, NIM's variables, a TOML file, the default. An
unknown ``POWERTRAIN_*`` variable or key of the file is an error at start, because a setting that silently does
nothing is found in production. ``NIM_*`` variables without a meaning here are named, for a warning in the log.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
from runtime.did_you_mean import did_you_mean
from runtime.package.home import default_home

from api.errors import SettingsError
from api.server_settings import GROUPS, Settings
from api.settings_rules import check_settings

ENV_PREFIX = "POWERTRAIN_"
CONFIG_VARIABLE = "POWERTRAIN_CONFIG"
HOME_VARIABLE = "POWERTRAIN_HOME"
CLIENT_KEY_VARIABLE = "OPENAI_API_KEY"

NIM_HOME_VARIABLE = "NIM_CACHE_PATH"
"""Where a NIM keeps its models: the folder of packages where ``POWERTRAIN_HOME`` names none."""

# NIM's values that differ from ours.
_NIM_VALUES = {
    "NIM_JSONL_LOGGING": {"1": "json", "true": "json", "0": "text", "false": "text"},
    "NIM_LOG_LEVEL": {"default": "info", "trace": "debug", "critical": "error"},
}
_NIM_HUB_PREFIX = "hf://"
# Part of every NIM's manifest, without the prefix of the others: the key of a registry that nothing here asks.
_NIM_KEYS = frozenset({"NGC_API_KEY"})
_OF_SEVERAL_MODELS = frozenset({"more_models", "model_setting", "load_models", "memory_bytes"})
_TRUE, _FALSE = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True, slots=True)
class ResolvedSettings:
    """Settings with the origin of each value, such as ``default``, ``--port`` or ``NIM_SERVER_PORT``."""

    settings: Settings
    origins: dict[str, str]
    unused_nim_names: tuple[str, ...] = ()  # NIM's variables that are set and have no meaning here, NGC_API_KEY too

    def lines(self) -> list[str]:
        """A TOML file that gives these settings: each one's meaning, and ``name = value  # origin``.

        What has no value, and secrets, stand there as comments.
        """
        lines: list[str] = []
        for item in dataclasses.fields(Settings):
            if item.name in GROUPS:
                lines += [*([""] if lines else []), f"## {GROUPS[item.name]}"]
            value = getattr(self.settings, item.name)
            is_hidden = item.metadata["secret"] and bool(value)
            text = '"<hidden>"' if is_hidden else "" if value is None else msgspec.json.encode(value).decode()
            mark = "# " if is_hidden or value is None else ""
            setting = f"{mark}{item.name} = {text}".rstrip() + f"  # {self.origins[item.name]}"
            lines += ["", f"# {item.metadata['help']}", setting]
        return lines


def models_home(environ: Mapping[str, str] | None = None) -> Path:
    """The folder of packages: ``POWERTRAIN_HOME``, else ``NIM_CACHE_PATH``, else the checkout's ``models/``, else one
    in the user's cache.
    """
    environment = os.environ if environ is None else environ
    if named := environment.get(HOME_VARIABLE) or environment.get(NIM_HOME_VARIABLE):
        return Path(named).expanduser()
    cache = environment.get("XDG_CACHE_HOME")
    return default_home(Path(cache) if cache else None)


def docker_config(environ: Mapping[str, str] | None = None) -> Path | None:
    """The file with logins of registries: ``REGISTRY_AUTH_FILE``, else ``config.json`` in ``DOCKER_CONFIG`` or in
    ``~/.docker``. None for a user without a home folder.
    """
    environment = os.environ if environ is None else environ
    if named := environment.get("REGISTRY_AUTH_FILE"):
        return Path(named)
    if folder := environment.get("DOCKER_CONFIG"):
        return Path(folder) / "config.json"
    try:
        return Path.home() / ".docker" / "config.json"
    except RuntimeError:
        return None


def client_key(environ: Mapping[str, str] | None = None) -> str | None:
    """The key that this user's clients send, by the name that OpenAI's clients read; None when there is none."""
    return (os.environ if environ is None else environ).get(CLIENT_KEY_VARIABLE) or None


def private_environment(key: str, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a server for this process alone: ``key`` is its only key, and nobody else's address, access or
    further models.

    In the environment and not in the command line, which every user of the machine may read.
    """
    environment = os.environ if environ is None else environ
    others, group = set[str](), ""
    for name, item in _fields().items():
        group = GROUPS.get(name, group)
        if group == GROUPS["host"] or name in _OF_SEVERAL_MODELS:
            others |= {ENV_PREFIX + name.upper(), *item.metadata["nim"]}
    kept = {name: value for name, value in environment.items() if name not in others}
    return kept | {ENV_PREFIX + "API_KEY": f"chat={key}"}


def resolve_settings(
    flags: Mapping[str, Any], config_file: Path | None = None, environ: Mapping[str, str] | None = None
) -> ResolvedSettings:
    """Merge all sources and check the result. ``flags`` are those that the command line really gave."""
    environment = os.environ if environ is None else environ
    if config_file is None and (named := environment.get(CONFIG_VARIABLE)):
        config_file = Path(named)
    sources = [
        {name: ("default", item.default) for name, item in _fields().items()},
        _from_file(config_file),
        _from_nim(environment),
        _from_environment(environment),
        {name: ("--" + name.replace("_", "-"), value) for name, value in flags.items()},
    ]
    merged: dict[str, tuple[str, Any]] = {}
    for source in sources:
        merged.update(source)
    values: dict[str, Any] = {name: converted(name, origin, value) for name, (origin, value) in merged.items()}
    settings = Settings(**values)
    check_settings(settings)
    return ResolvedSettings(settings, {name: origin for name, (origin, _) in merged.items()}, _unused_nim(environment))


def _fields() -> dict[str, dataclasses.Field[Any]]:
    return {item.name: item for item in dataclasses.fields(Settings)}


def _from_file(path: Path | None) -> dict[str, tuple[str, Any]]:
    if path is None:
        return {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"the settings file {path} is not readable: {error}") from error
    if unknown := sorted(set(values) - set(_fields())):
        near = did_you_mean(unknown[0], _fields())
        raise SettingsError(f"the settings file {path} has unknown settings: {', '.join(unknown)}.{near}")
    return {name: (path.name, value) for name, value in values.items()}


def _from_nim(environment: Mapping[str, str]) -> dict[str, tuple[str, Any]]:
    found = {}
    for name, item in _fields().items():
        for variable in item.metadata["nim"]:
            if value := environment.get(variable):
                ours = _NIM_VALUES.get(variable, {}).get(value.lower(), value)
                found[name] = (variable, ours.removeprefix(_NIM_HUB_PREFIX) if name == "model" else ours)
                break
    return found


def _unused_nim(environment: Mapping[str, str]) -> tuple[str, ...]:
    """NIM's variables that are set and change nothing, by name."""
    known = {variable for item in _fields().values() for variable in item.metadata["nim"]} | {NIM_HOME_VARIABLE}
    nim = {name for name in environment if name.startswith("NIM_")} | (_NIM_KEYS & set(environment))
    return tuple(sorted(nim - known))


def _from_environment(environment: Mapping[str, str]) -> dict[str, tuple[str, Any]]:
    known = {ENV_PREFIX + name.upper(): name for name in _fields()}
    mine = {variable: value for variable, value in environment.items() if variable.startswith(ENV_PREFIX)}
    if unknown := sorted(set(mine) - set(known) - {CONFIG_VARIABLE, HOME_VARIABLE}):
        near = did_you_mean(unknown[0], [*known, CONFIG_VARIABLE, HOME_VARIABLE])
        raise SettingsError(f"unknown settings in the environment: {', '.join(unknown)}.{near}")
    return {known[variable]: (variable, value) for variable, value in mine.items() if variable in known}


def converted(name: str, origin: str, value: object) -> object:
    """A value as its field's type; text from the environment is read leniently, lists at their commas."""
    wanted = get_type_hints(Settings)[name]
    if isinstance(value, str) and wanted == tuple[str, ...]:
        value = [part.strip() for part in value.split(",")]
    if isinstance(value, str) and wanted is bool:
        value = {**dict.fromkeys(_TRUE, True), **dict.fromkeys(_FALSE, False)}.get(value.strip().lower(), value)
    if isinstance(value, str) and name == "log_level":
        value = value.lower()
    try:
        fitting: object = msgspec.convert(value, wanted, strict=not isinstance(value, str) or wanted is bool)
    except msgspec.ValidationError as error:
        shown = "the given value" if _fields()[name].metadata["secret"] else repr(value)
        raise SettingsError(f"{name} (from {origin}): {shown} does not fit: {error}") from error
    return fitting
