"""``powertrain probe``: asks the server on this machine whether it is well. What a container's health check runs.

Where the server listens is asked of the surroundings, which know the settings that it was started with: those of the
environment and the file, not its flags. Measures nothing.
"""

from __future__ import annotations

from dataclasses import replace
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from ssl import CERT_NONE, create_default_context

import rich_click as click
from runtime.commands.help_text import examples
from runtime.commands.surroundings import ServerAddress, surroundings
from runtime.errors import PowertrainError

from bench.errors import BenchError

READY, LIVE = "/v1/health/ready", "/v1/health/live"
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not listened on


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples("powertrain probe", "POWERTRAIN_PORT=9000 powertrain probe --live"),
)
@click.option("--live", is_flag=True, help="Ask only whether it is alive; else whether it takes requests.")
@click.option("--port", type=click.IntRange(1, 65535), help="The server's port; default: as its settings say.")
@click.option("--timeout-s", type=click.FloatRange(0.1, 60), default=3.0, help="Longest wait. [default: 3]")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="The server's file of settings.")
@click.pass_context
def probe_command(
    context: click.Context, /, *, live: bool, port: int | None, timeout_s: float, config_file: Path | None
) -> None:
    """Exit with 0 if the server on this machine takes requests (with --live: is alive), else with 1 and a line."""
    path = LIVE if live else READY
    try:
        server = surroundings(context).address(config_file)
        status = health_status(replace(server, port=port or server.port), path, timeout_s)
    except PowertrainError as error:
        raise click.ClickException(str(error)) from error
    if status != 200:
        raise click.ClickException(f"{path} answered {status}")


def health_status(server: ServerAddress, path: str, timeout_s: float) -> int:
    """The HTTP status of ``path`` at a server on this machine. Raises BenchError when there is no answer."""
    if server.port == 0:
        raise BenchError("port 0 takes a free port, which only the server knows; name it with --port")
    near, port = _ANY_ADDRESS.get(server.host, server.host), server.port
    connection = HTTPConnection(near, port, timeout=timeout_s)
    if server.is_https:
        context = create_default_context()
        context.check_hostname, context.verify_mode = False, CERT_NONE  # its certificate is for its clients' name of it
        connection = HTTPSConnection(near, port, timeout=timeout_s, context=context)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, HTTPException) as error:
        why = str(error) or type(error).__name__
        where = "that is where 'serve' with this environment and --config listens, --port names another port"
        raise BenchError(f"no answer from {near}:{port}: {why}; {where}") from error
    finally:
        connection.close()
