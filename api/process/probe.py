"""``powertrain probe``: asks a server on this machine whether it is well. What a container's health check runs.

Finds the server by the settings that it was started with (environment and file, not its flags). Knows no engine.
"""

from __future__ import annotations

from http.client import HTTPConnection, HTTPException
from pathlib import Path

import rich_click as click
from runtime.commands.help_text import examples
from runtime.errors import PowertrainError

from api.errors import SettingsError
from api.server_settings import Settings

_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not listened on
READY, LIVE = "/v1/health/ready", "/v1/health/live"


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples("powertrain probe", "POWERTRAIN_PORT=9000 powertrain probe --live"),
)
@click.option("--live", is_flag=True, help="Ask only whether it is alive; else whether it takes requests.")
@click.option("--port", type=click.IntRange(1, 65535), help="The server's port; default: as its settings say.")
@click.option("--timeout-s", type=click.FloatRange(0.1, 60), default=3.0, help="Longest wait. [default: 3]")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="The server's file of settings.")
def probe_command(*, live: bool, port: int | None, timeout_s: float, config_file: Path | None) -> None:
    """Exit with 0 if the server on this machine takes requests (with --live: is alive), else with 1 and a line."""
    from api.settings import resolve_settings

    try:
        settings = resolve_settings({} if port is None else {"port": port}, config_file).settings
        status = health_status(settings, LIVE if live else READY, timeout_s)
    except PowertrainError as error:
        raise click.ClickException(str(error)) from error
    if status != 200:
        raise click.ClickException(f"{LIVE if live else READY} answered {status}")


def health_status(settings: Settings, path: str, timeout_s: float) -> int:
    """The HTTP status that the server of these settings answers ``path`` with. Raises SettingsError if it does not."""
    if settings.port == 0:
        raise SettingsError("port 0 takes a free port, which only the server knows; name it with --port")
    host = _ANY_ADDRESS.get(settings.host, settings.host)
    connection = HTTPConnection(host, settings.port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, HTTPException) as error:
        raise SettingsError(f"no answer from {host}:{settings.port}: {error or type(error).__name__}") from error
    finally:
        connection.close()
