"""What `powertrain bench mock` does: serves the mock endpoint until interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import rich_click as click
from rich.console import Console

from bench.proof.mock_server import MockBehaviour, MockServer


def run_mock(host: str, port: int, behaviour: MockBehaviour) -> None:
    """Serve until SIGINT or SIGTERM. A taken address is one line."""
    try:
        asyncio.run(_serve(MockServer(behaviour), host, port))
    except OSError as error:
        raise click.ClickException(
            f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}; try another --port"
        ) from error


async def _serve(server: MockServer, host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[None] = loop.create_future()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.cancel)
    listener = await loop.create_server(server.protocol, host, port)
    bound = listener.sockets[0].getsockname()[1]
    Console(stderr=True).print(
        f"mock endpoint on http://{host}:{bound}/v1, model {server.behaviour.model}", highlight=False
    )
    with contextlib.closing(listener), contextlib.suppress(asyncio.CancelledError):
        await stopped
