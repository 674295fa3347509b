"""The command line: maps each word to its room, and puts together what needs two of them.

A room is imported when its word is called. That is also where a server may come before its package: ``serve`` builds
what is missing by running ``export`` as a process of its own, whose memory is free again when the model is loaded.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import rich_click as click

from runtime.commands.help_text import examples
from runtime.commands.lazy_group import LazyGroup
from runtime.commands.standard_streams import open_closed_streams
from runtime.commands.surroundings import ServerAddress, ServerLaunch, Surroundings

if TYPE_CHECKING:
    from api.settings import ResolvedSettings

_COMMANDS = {
    "serve": ("api.process.cli", "serve_command"),
    "chat": ("chat.commands.chat", "chat_command"),
    "key": ("api.process.key_cli", "key_group"),
    "probe": ("bench.commands.probe", "probe_command"),
    "export": ("export.commands.export", "export_command"),
    "inspect": ("export.commands.inspect", "inspect_command"),
    "diff": ("export.commands.diff", "diff_command"),
    "engine": ("export.commands.engine", "engine_command"),
    "convert": ("export.commands.convert", "convert_command"),
    "build": ("export.commands.build", "build_command"),
    "cache": ("export.commands.cache", "cache_group"),
    "sign": ("export.commands.sign", "sign_command"),
    "verify": ("export.commands.verify", "verify_command"),
    "push": ("export.commands.push", "push_command"),
    "pull": ("export.commands.pull", "pull_command"),
    "bench": ("bench.commands.bench", "bench_group"),
    "eval": ("bench.commands.evaluate", "eval_command"),
    "doctor": ("runtime.commands.doctor", "doctor_command"),
}


# ONNX Runtime from 1.29 on tells its maker which models run, and keeps a database in the user's cache for that. It
# looks for this variable when it is first imported, here or in a process that this one starts.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# Ray asks whether it may, and takes silence for yes.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def _home() -> Path:
    """The folder of packages, as the environment or the installation says."""
    from api.settings import models_home

    return models_home()


def _address(config_file: Path | None) -> ServerAddress:
    """Where a server with this environment and file of settings listens. Raises PowertrainError."""
    from api.settings import resolve_settings

    settings = resolve_settings({}, config_file).settings
    return ServerAddress(settings.host, settings.port, is_https=settings.tls_cert is not None)


def _build(model: str) -> Path:
    """The folder of the package that ``model`` names, pulled or exported first where it is missing.

    Raises PowertrainError.
    """
    from export.errors import RecipeError
    from export.ship.reference import is_reference
    from export.source.argument import recipe_from_argument
    from runtime.errors import PackageError
    from runtime.package.home import find_package, nearest_package

    if is_reference(model):
        return _pull(model)
    home = _home()
    try:
        return find_package(model, home)
    except PackageError:
        pass
    try:
        recipe, base = recipe_from_argument(model, home)
    except RecipeError as error:
        near = nearest_package(model, home)
        # A package is named like its recipe, so one hint is enough for both.
        is_new = near is not None and f"did you mean {near.name} " not in str(error)
        raise PackageError(f"{error}; did you mean {near}?" if is_new else str(error)) from error
    folder = base / recipe.name
    _run_export(model, folder)
    return folder


def _run_export(model: str, folder: Path) -> None:
    """Export in a process of its own, which ends with this one. Raises PackageError when it fails; it said why."""
    from runtime.errors import PackageError

    # By the path of this file: a folder named like one of our rooms in the current folder must not come first.
    command = [sys.executable, __file__, "export", "--output", str(folder), "--", model]
    # What it says goes to standard error: the output may be a pipe that waits for an answer of the model.
    process = subprocess.Popen(command, stdout=2)  # noqa: S603 - our own interpreter and our own code
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        status = process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
        process.terminate()
        process.wait()
    if status != 0:
        raise PackageError(f"{model} could not be built; the reason is above")


def _server(model: str | None) -> ServerLaunch:
    """A private server of what ``serve`` would serve, built first if need be. Raises PowertrainError."""
    import secrets

    from api.settings import private_environment, resolve_settings
    from runtime.package.home import only_package

    named = resolve_settings({} if model is None else {"model": model}).settings.model
    folder = only_package(_home()) if named is None else _build(named)
    words = ["--host", "127.0.0.1", "--port", "0", "--log-level", "warning", "--log-format", "text", "--", str(folder)]
    key = secrets.token_urlsafe()
    return ServerLaunch((sys.executable, __file__, "serve", *words), private_environment(key), key)


def _client_key() -> str | None:
    """The key for servers of others."""
    from api.settings import client_key

    return client_key()


def _pull(reference: str) -> Path:
    """The folder of the package that lies elsewhere, pulled unless it was before. Raises PowertrainError."""
    from rich.console import Console

    from export.progress import TerminalReporter
    from export.ship.places import open_place
    from export.ship.pull import find_pulled, pull_package
    from export.ship.reference import parse_reference

    wanted, home = parse_reference(reference), _home()
    if (found := find_pulled(wanted, home)) is not None:
        return found
    with open_place(wanted, _docker_config()) as place:
        return pull_package(wanted, place, home, TerminalReporter(Console(stderr=True))).root


def _docker_config() -> Path | None:
    """Where docker and its like keep logins."""
    from api.settings import docker_config

    return docker_config()


def _serve_fleet(resolved: ResolvedSettings) -> None:
    """Serve with several replicas. Raises PowertrainError."""
    from fleet.process.serving import serve_fleet

    serve_fleet(resolved, _AROUND)


def _leave(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


_AROUND = Surroundings(_home, _build, _address, _server, _client_key, _docker_config, _serve_fleet)


class _Words(LazyGroup):
    """The command line as a process of its own."""

    def main(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - click's
        """See click; nothing is imported, opened or connected before."""
        open_closed_streams()
        return super().main(*args, **kwargs)


@click.group(
    cls=_Words,
    table=_COMMANDS,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "obj": _AROUND,
    },
    epilog=examples(
        "powertrain serve smollm2-135m-instruct", "powertrain chat", "powertrain export ~/Downloads/model.gguf"
    ),
)
@click.version_option(package_name="powertrain")
def main() -> None:
    """Checkpoint to ONNX graph, TensorRT plan and chat endpoint, measured at every step."""


if __name__ == "__main__":
    main(prog_name="powertrain")
