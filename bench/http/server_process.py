"""Runs a chat server as a process of its own for the length of a block. Knows no server but ours by its command."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from bench.errors import BenchError, StreamError
from bench.http.endpoint import endpoint_from_url
from bench.http.http_client import HttpClient, socket_dial

_READY_WITHIN_S = 120.0
_POLL_S = 0.2
_STOP_WITHIN_S = 20.0


def free_port() -> int:
    """A TCP port of this machine that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def own_server(package: Path, port: int) -> list[str]:
    """The command that serves a package to a benchmark: the load decides how long requests wait, not the server."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "powertrain",
        "serve",
        str(package),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    return [*command, "--max-predicted-wait-s", "0", "--max-queue-time-s", "0"]


@contextmanager
def running_server(command: Sequence[str], port: int, ready_path: str) -> Iterator[str]:
    """Start ``command``, wait until GET ``/v1`` + ``ready_path`` answers 200, yield the URL, and end the process.

    Raises BenchError with the server's last line when it ends early or is not ready in time.
    """
    url = f"http://127.0.0.1:{port}"
    # A file and not a pipe: a server that logs more than a pipe holds would stop in the middle of the measurement.
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603 - callers give fixed words
        before = signal.signal(signal.SIGTERM, _leave)  # a terminated benchmark must not leave servers behind
        try:
            problem = asyncio.run(_wait_ready(url, ready_path, process))
            if problem is not None:
                log.seek(0)
                lines = log.read().strip().splitlines()
                raise BenchError(f"{command[0]} {problem}: {lines[-1] if lines else 'no message'}")
            yield url
        finally:
            signal.signal(signal.SIGTERM, before)
            process.terminate()
            try:
                process.wait(_STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _leave(number: int, frame: object) -> NoReturn:
    del frame
    sys.exit(128 + number)


async def _wait_ready(url: str, ready_path: str, process: subprocess.Popen[bytes]) -> str | None:
    """None when ready, else what went wrong."""
    endpoint = endpoint_from_url(url)
    client = HttpClient(endpoint, socket_dial(endpoint), time.perf_counter_ns, reuse=False)
    give_up_s = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < give_up_s:
        if process.poll() is not None:
            return f"ended with code {process.returncode}"
        try:
            status, _ = await client.get(ready_path)
        except StreamError:
            status = 0
        if status == 200:
            return None
        await asyncio.sleep(_POLL_S)
    return f"was not ready within {_READY_WITHIN_S:.0f} s"
