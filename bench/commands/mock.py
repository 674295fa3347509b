"""`powertrain bench mock`: serves the mock endpoint until interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Any

import rich_click as click
from rich.console import Console

from bench.proof.mock_server import MOCK_MODEL, MockBehaviour, MockServer


@click.command("mock")
@click.option("--host", default="127.0.0.1")
@click.option("--port", type=click.IntRange(0, 65535), default=8001, help="0 chooses a free one.")
@click.option("--ttft-ms", type=click.FloatRange(0), default=10.0, help="Time to first token.")
@click.option("--itl-ms", type=click.FloatRange(0), default=5.0, help="Time between tokens.")
@click.option("--output-tokens", type=click.IntRange(1), default=64, help="Where the request names no limit.")
@click.option("--tokens-per-chunk", type=click.IntRange(1), default=1)
@click.option("--reasoning-tokens", type=click.IntRange(0), default=0, help="First tokens sent as reasoning.")
@click.option("--model", default=MOCK_MODEL)
@click.option("--usage/--no-usage", default=True, help="Report token counts.")
@click.option("--stream/--no-stream", default=True, help="Honour stream=true.")
@click.option("--max-concurrency", type=click.IntRange(0), default=0, help="Answer 429 above it; 0 is no limit.")
@click.option("--cut-after-chunks", type=click.IntRange(-1), default=-1, help="Break the connection there.")
@click.option("--error-after-chunks", type=click.IntRange(-1), default=-1, help="Send an error event there.")
@click.option("--fault-every", type=click.IntRange(1), default=1, help="Only every k-th request misbehaves.")
def mock_command(host: str, port: int, **values: Any) -> None:  # noqa: ANN401 - the fields of MockBehaviour
    """Serve a chat endpoint with exact latencies, or with chosen faults, to try a client or this benchmark on."""
    behaviour = MockBehaviour(**values)
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
