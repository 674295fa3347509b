"""``powertrain serve``: flags to settings, settings to a served package. Flags are made from ``Settings`` itself."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import rich_click as click
from rich.console import Console
from runtime.errors import PackageError, PowertrainError
from runtime.package.manifest import MANIFEST_FILE, Package, load_package

from api.edge.keys import key_ring
from api.errors import SettingsError
from api.observe.logs import configure_logging
from api.process.launch import bind, build_service
from api.process.server import Server
from api.server_settings import Settings
from api.settings import ResolvedSettings, resolve_settings

MODELS_FOLDER = Path("models")
_LOG = logging.getLogger("powertrain.server")
_Command = Callable[..., None]


def _settings_options(command: _Command) -> _Command:
    """One option per setting; an option that is not given leaves the value to the other sources."""
    hints = get_type_hints(Settings)
    for item in reversed(dataclasses.fields(Settings)):
        if item.name != "model":
            command = _option(item, hints[item.name])(command)
    return command


def _option(item: dataclasses.Field[Any], hint: Any) -> Callable[[_Command], _Command]:  # noqa: ANN401 - a type
    flag = "--" + item.name.replace("_", "-")
    default = "" if item.default in {None, (), False} or item.metadata["secret"] else f" [default: {item.default}]"
    text = item.metadata["help"] + default
    if hint is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", item.name, default=None, help=text)
    if get_origin(hint) is Literal:
        return click.option(flag, item.name, type=click.Choice(get_args(hint)), default=None, help=text)
    if get_origin(hint) is tuple:
        return click.option(flag, item.name, multiple=True, default=None, callback=_joined, help=text)
    kinds = {int: int, float: float}
    kind = next((kinds[part] for part in (hint, *get_args(hint)) if part in kinds), str)
    return click.option(flag, item.name, type=kind, default=None, help=text)


def _joined(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> str | None:
    """A flag that may be repeated, in the form that it has in the environment."""
    return ",".join(values) if values else None


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", required=False, type=click.Path(path_type=str))
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="TOML file with settings.")
@click.option("--print-config", is_flag=True, help="Show every setting with its origin and exit.")
@_settings_options
def serve_command(model: str | None, config_file: Path | None, print_config: bool, **flags: Any) -> None:  # noqa: ANN401
    """Serve the model package MODEL over HTTP, compatible with OpenAI's clients and NVIDIA NIM.

    Without MODEL, the only package under models/ is served.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    if model is not None:
        given["model"] = model
    try:
        resolved = resolve_settings(given, config_file)
        if print_config:
            click.echo("\n".join(resolved.lines()))
            return
        _serve(resolved)
    except PowertrainError as error:
        raise click.ClickException(str(error)) from error


def find_package_folder(models: Path) -> Path:
    """The only package in a folder of packages. Raises PackageError naming the choices, or how to build one."""
    folders = sorted(path.parent for path in models.glob(f"*/{MANIFEST_FILE}"))
    if len(folders) == 1:
        return folders[0]
    if not folders:
        raise PackageError(f"no model package under {models}/; build one with 'powertrain export models/NAME.toml'")
    raise PackageError(f"several packages under {models}/: say which one: {', '.join(map(str, folders))}")


def _serve(resolved: ResolvedSettings) -> None:
    settings = resolved.settings
    configure_logging(settings)
    if resolved.unused_nim_names:
        _LOG.warning("these variables have no effect here: %s", ", ".join(resolved.unused_nim_names))
    if names := key_ring(settings).names:
        _LOG.info("a key is needed; the keys are %s", ", ".join(names))
    # The ports first: a second server on them should fail before it reads gigabytes.
    with ExitStack() as stack:
        sock = stack.enter_context(bind(settings.host, settings.port))
        sockets = [sock]
        if settings.management_port is not None:
            sockets.append(stack.enter_context(bind(settings.host, settings.management_port, "--management-port")))
            _LOG.info("health and metrics have a port of their own: %d", sockets[-1].getsockname()[1])
        package = _load(settings)
        service = build_service(settings, package)
        host, port = sock.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        Console(stderr=True, highlight=False).print(
            f"Serving [bold]{service.model.base_name}[/bold] at http://{shown}:{port}/v1 (docs at /docs)",
            soft_wrap=True,
        )
        server = Server(service)
        server.run(sockets=sockets)
    if service.engine.failure is not None:
        raise PackageError(f"the engine failed: {service.engine.failure}")


def _load(settings: Settings) -> Package:
    folder = Path(settings.model) if settings.model is not None else find_package_folder(MODELS_FOLDER)
    if not folder.is_dir():
        raise SettingsError(f"there is no package at {folder}; build one with 'powertrain export'")
    return load_package(folder)
