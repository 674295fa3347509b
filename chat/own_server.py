"""A server for one conversation: a child process, ready when the block begins, ended when it ends.

Knows our server by its command line, the line that says its address, and its probe; what it serves, and the key that
only this process knows, are in the ``ServerLaunch`` that it is given.
"""

from __future__ import annotations

import ctypes
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import IO, NoReturn

import httpx
from runtime.commands.surroundings import ServerLaunch

from chat.client import http_client
from chat.endpoint import Endpoint
from chat.errors import ChatError
from chat.plain_text import one_line

_ADDRESS = re.compile(r" at (https?://\S+/v1)\b")
_PR_SET_PDEATHSIG = 1
_POLL_S = 0.05
_STOP_WITHIN_S = 20.0


@contextmanager
def own_server(launch: ServerLaunch) -> Iterator[Endpoint]:
    """Start the server, wait until it is ready, yield its endpoint, end it.

    Raises ChatError with the server's last line when it ends before it is ready.
    """
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own code
        launch.command,
        env=dict(launch.environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        process_group=0,  # a Ctrl-C in the terminal is for an answer, not for the server
        preexec_fn=_end_with_parent(),  # noqa: PLW1509 - one system call, and no thread runs yet
    )
    before = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield Endpoint(_wait_ready(process), launch.key)
    finally:
        _end(process)
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_with_parent() -> Callable[[], object] | None:
    """What makes a child get SIGTERM when this process ends in any way, a SIGKILL too; None where Linux is not."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # found before the fork
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _leave(number: int, _frame: object) -> NoReturn:
    """A terminal that is closed, or a kill, must not leave the server behind."""
    sys.exit(128 + number)


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_ready(process: subprocess.Popen[str]) -> str:
    """The URL of the server once it has answered its probe."""
    if process.stderr is None:
        raise ChatError("the server's messages cannot be read")
    last: deque[str] = deque(maxlen=20)
    addresses: SimpleQueue[str | None] = SimpleQueue()
    threading.Thread(target=_drain, args=(process.stderr, last, addresses), name="server-log", daemon=True).start()
    url = addresses.get()
    if url is not None:
        if not url.startswith("http://127.0.0.1:"):
            raise ChatError(f"the settings make the model's server answer at {url}; chat needs http on 127.0.0.1")
        if _becomes_ready(process, url):
            return url
        addresses.get()  # the log's end: all that it said is there now
    raise ChatError(f"the model's server ended: {one_line(_reason(last)) or 'it said nothing'}")


def _becomes_ready(process: subprocess.Popen[str], url: str) -> bool:
    """True once the probe answers; False when the process ends before."""
    with http_client(Endpoint(url)) as http:
        while process.poll() is None:
            try:
                if http.get(url + "/health/ready").status_code == httpx.codes.OK:
                    return True
            except httpx.TransportError:
                pass  # it listens before it accepts
            time.sleep(_POLL_S)
    return False


def _drain(stream: IO[str], last: deque[str], addresses: SimpleQueue[str | None]) -> None:
    """Read the log to its end, so that the server never waits for us; its address once, then None at the end."""
    told = False
    with stream:
        for line in stream:
            if line.strip():
                last.append(line)
            if not told and (found := _ADDRESS.search(line)):
                told = True
                addresses.put(found[1])
    addresses.put(None)


def _reason(last: deque[str]) -> str:
    """What a server said of its end: the text in the box of its last message, else its last line."""
    boxed = [line.strip().strip("│").strip() for line in last if line.lstrip().startswith("│")]
    return " ".join(boxed) or (last[-1] if last else "")
