"""What tests of hostile clients share: a socket to the server, and the answers that came back over it."""

from __future__ import annotations

import contextlib
import json
import socket
from dataclasses import dataclass
from typing import Any

from tests.api.scripted_server import RunningServer

CHAT = b"/v1/chat/completions"
GOOD = b'{"messages":[{"role":"user","content":"ok"}]}'
HOST = b"host: localhost"
JSON = b"content-type: application/json"
CLOSE = b"connection: close"


@dataclass(frozen=True)
class Answer:
    """One HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The contract's error object; fails when the body is anything else."""
        assert self.headers["content-type"] == "application/json"
        error: dict[str, Any] = json.loads(self.body)["error"]
        assert (error["object"], error["code"]) == ("error", self.status)
        return error


def head(*lines: bytes, method: bytes = b"POST", target: bytes = CHAT, version: bytes = b"1.1") -> bytes:
    """A request's head."""
    return b"\r\n".join([method + b" " + target + b" HTTP/" + version, *lines, b"", b""])


def post(body: bytes = GOOD, *lines: bytes) -> bytes:
    """A whole POST."""
    return head(HOST, JSON, b"content-length: %d" % len(body), *lines) + body


def get(target: bytes, *lines: bytes) -> bytes:
    """A whole GET."""
    return head(HOST, *lines, method=b"GET", target=target)


def connect(server: RunningServer, port: int | None = None) -> socket.socket:
    """A connection to the server."""
    return socket.create_connection(("127.0.0.1", port or server.port), timeout=20)


def read_all(connection: socket.socket) -> bytes:
    """Everything until the server closes; what a reset cuts off is missing."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while block := connection.recv(65536):
            received += block
    return received


def talk(server: RunningServer, *blocks: bytes, port: int | None = None, bodiless: bool = False) -> list[Answer]:
    """Send blocks; the answers until the server closes. The last request must ask it to, or be refused."""
    with connect(server, port) as connection:
        with contextlib.suppress(ConnectionError):
            for block in blocks:
                connection.sendall(block)
        return answers(read_all(connection), bodiless=bodiless)


def answers(received: bytes, *, bodiless: bool = False) -> list[Answer]:
    """Answers with a content length, one after the other; ``bodiless`` answers to HEAD have none."""
    found = []
    while received:
        top, _, rest = received.partition(b"\r\n\r\n")
        status_line, *lines = top.decode("ascii").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        size = 0 if bodiless else int(headers.get("content-length", "0"))
        assert len(rest) >= size
        found.append(Answer(int(status_line.split(" ")[1]), headers, rest[:size]))
        received = rest[size:]
    return found
