"""Raw sockets and hostile bodies: whatever arrives, one clear answer or a closed connection, and the server lives."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.api.scripted_server import RunningServer

GOOD = b'{"messages":[{"role":"user","content":"ok"}]}'
PATH = b"/v1/chat/completions"
POST = b"POST " + PATH + b" HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json"


def talk(server: RunningServer, *blocks: bytes, timeout: float = 10) -> bytes:
    """Send blocks and read until the server closes or has answered in full."""
    received = b""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=timeout)
    with connection, contextlib.suppress(ConnectionError):
        for block in blocks:
            connection.sendall(block)
        while block := connection.recv(65536):
            received += block
    return received


def request(body: bytes, *headers: bytes, length: int | None = None) -> bytes:
    size = str(len(body) if length is None else length).encode()
    lines = [POST, b"connection: close", b"content-length: " + size, *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@pytest.fixture(autouse=True)
def _still_serves(server: RunningServer) -> Iterator[None]:
    yield
    assert server.chat("ok")["choices"][0]["message"]["content"] == "ok"
    server.wait_idle()


def test_body_in_one_byte_pieces(server: RunningServer) -> None:
    whole = request(GOOD)
    assert talk(server, *[whole[place : place + 1] for place in range(len(whole))]).startswith(b"HTTP/1.1 200")


def test_chunked_body(server: RunningServer) -> None:
    head = POST + b"\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (GOOD[:5], GOOD[5:])) + b"0\r\n\r\n"
    assert talk(server, head, chunks).startswith(b"HTTP/1.1 200")


def test_announced_giant_is_refused_before_it_is_sent(server: RunningServer) -> None:
    answer = talk(server, request(b"", length=100 * 2**20))
    assert answer.startswith(b"HTTP/1.1 413")
    assert b'"object":"error"' in answer


def test_sent_giant_is_refused(server: RunningServer) -> None:
    answer = talk(server, request(b"x" * (11 * 2**20)))
    assert answer == b"" or answer.startswith(b"HTTP/1.1 413")  # a reset may overtake the answer


def test_expectation_of_a_giant_is_refused(server: RunningServer) -> None:
    answer = talk(server, request(b"", b"expect: 100-continue", length=100 * 2**20))
    assert answer.startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        POST + b"\r\ncontent-length: -1\r\n\r\n",
        b"POST "
        + PATH
        + b" HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nbad header\r\n\r\n",
    ],
)
def test_malformed_requests_are_refused(server: RunningServer, raw: bytes) -> None:
    answer = talk(server, raw, timeout=5)
    assert answer == b"" or answer.split(b" ")[1][:1] == b"4"


def test_client_that_leaves_inside_its_body(server: RunningServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(request(GOOD[:10], length=len(GOOD)))


def test_reset_in_mid_stream(server: RunningServer) -> None:
    body = b'{"messages":[{"role":"user","content":"*ab"}],"stream":true,"max_tokens":200}'
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=5)
    connection.sendall(request(body))
    assert connection.recv(10)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()  # sends a reset


def test_half_closed_client_still_gets_its_answer_or_is_dropped(server: RunningServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(request(GOOD))
        connection.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ConnectionError):
            while block := connection.recv(65536):
                received += block
    assert received == b"" or received.startswith(b"HTTP/1.1 200")


def test_many_headers(server: RunningServer) -> None:
    answer = talk(server, request(GOOD, *[b"x-%d: y" % number for number in range(2000)]))
    assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 4"))


def test_slow_reader_does_not_hold_others(server: RunningServer) -> None:
    body = b'{"messages":[{"role":"user","content":"*ab"}],"stream":true,"max_tokens":200}'
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as slow:
        slow.sendall(request(body))
        assert server.chat("quick")["choices"][0]["message"]["content"] == "quick"
