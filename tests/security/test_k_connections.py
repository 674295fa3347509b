"""Class K, HTTP-layer denial of service: what one client sends, or does not, costs the others nothing.

Repeats the causes of CVE-2025-23310 and CVE-2025-23311 (Triton: memory by chunks of the client's choosing),
CVE-2026-24175 (Triton: headers), CVE-2026-24158 (Triton: compressed bodies) and CVE-2026-9540 (vLLM: a connection
held open for nothing).
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.scripted_server import RunningServer, running_server
from tests.security.raw_http import (
    CLOSE,
    GOOD,
    HOST,
    JSON,
    answers,
    connect,
    get,
    head,
    post,
    read_all,
    talk,
)

TIMEOUT_S = 0.2
HEAD_BYTES = 4096
CHUNKED_HEADER = b"transfer-encoding: chunked"
CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(GOOD), GOOD)
LENGTH = b"content-length: %d" % len(GOOD)
CHUNKED = head(HOST, JSON, CHUNKED_HEADER)


@pytest.fixture(scope="module")
def strict() -> Iterator[RunningServer]:
    with running_server(
        header_timeout_s=TIMEOUT_S,
        body_timeout_s=TIMEOUT_S,
        idle_timeout_s=TIMEOUT_S,
        write_timeout_s=TIMEOUT_S,
        max_header_bytes=HEAD_BYTES,
        max_body_bytes=20_000,
    ) as server:
        yield server
        assert server.chat("ok")["choices"][0]["message"]["content"] == "ok"
        server.wait_for(lambda: _num_open(server) <= 1)  # nothing was left behind; the client's own may be open


def _num_open(server: RunningServer) -> int:
    return len(server.server.server_state.connections)


def _trickle(connection: socket.socket, block: bytes, times: int = 2000) -> bytes:
    """Send a block again and again, a moment apart, until the server has closed; what it answered."""
    connection.settimeout(0.005)
    received = b""
    for _ in range(times):
        try:
            connection.sendall(block)
            received += (got := connection.recv(65536))
            if not got:
                return received
        except TimeoutError:
            continue
        except ConnectionError:
            return received
    raise AssertionError("the server let it go on")


def test_a_slow_head_is_cut_off_however_steadily_it_drips(strict: RunningServer) -> None:
    with connect(strict) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nx: ")
        (answer,) = answers(_trickle(connection, b"a"))
    assert (answer.status, answer.error["type"]) == (408, "RequestTimeoutError")
    assert answer.error["message"] == "The request's head did not arrive within 0.2 s"
    assert len(answer.headers["x-request-id"]) == 32


def test_a_slow_body_is_cut_off(strict: RunningServer) -> None:
    with connect(strict) as connection:
        connection.sendall(CHUNKED)
        (answer,) = answers(_trickle(connection, b"1\r\n \r\n"))
    assert (answer.status, answer.error["message"]) == (408, "The request's body did not arrive within 0.2 s")


def test_silence_is_cut_off_without_an_answer(strict: RunningServer) -> None:
    with connect(strict) as connection:
        assert read_all(connection) == b""


def test_an_idle_connection_is_closed_and_line_ends_do_not_keep_it(strict: RunningServer) -> None:
    for drip in (b"", b"\r\n"):
        with connect(strict) as connection:
            connection.sendall(get(b"/v1/models"))
            received = _trickle(connection, drip)
        assert answers(received)[0].status == 200


def test_a_refused_request_whose_body_never_ends_is_cut_off(strict: RunningServer) -> None:
    with connect(strict) as connection:
        connection.sendall(head(HOST, b"transfer-encoding: chunked"))  # no content type: answered at once
        received = _trickle(connection, b"1\r\n \r\n")
    assert [answer.status for answer in answers(received)] == [400]


def test_a_body_of_one_byte_chunks_is_a_body(strict: RunningServer) -> None:
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in GOOD) + b"0\r\n\r\n"
    assert [answer.status for answer in talk(strict, head(HOST, JSON, CLOSE, CHUNKED_HEADER), chunks)] == [200]


@pytest.mark.parametrize(
    ("prefix", "block", "status"),
    [
        (CHUNKED, b"400\r\n" + b"x" * 1024 + b"\r\n", 413),  # an endless body
        (CHUNKED + b"0\r\n", b"x-trailer: y\r\n", 431),  # endless trailers
        (CHUNKED + b"0\r\nx: ", b"y" * 1000, 431),  # one endless trailer
        (CHUNKED + b"1;", b"e" * 1000, 431),  # an endless chunk extension
        (b"GET / HTTP/1.1\r\n", b"a: b\r\n", 431),  # headers without end
        (b"GET / HTTP/1.1\r\na: ", b"b" * 1000, 431),  # one endless header
        (b"GET / HTTP/1.1\r\n", b"b" * 1000, 431),  # an endless header name
        (b"GET /", b"p" * 1000, 414),  # an endless target
        (b"", b"G" * 1000, 400),  # an endless method
    ],
)
def test_what_has_no_end_is_cut_off_at_its_limit(
    strict: RunningServer, prefix: bytes, block: bytes, status: int
) -> None:
    with connect(strict) as connection:
        connection.settimeout(20)
        connection.sendall(prefix)
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 50 * 2**20:
                connection.sendall(block * 50)
                sent += 50 * len(block)
        assert sent < 50 * 2**20
        received = read_all(connection)
    # A reset may overtake the answer, as the client is still sending.
    assert received == b"" or answers(received)[0].status == status


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([b"x-%d: y" % number for number in range(98)], 200),  # with two more the limit of 100
        ([b"x-%d: y" % number for number in range(99)], 431),
        ([b"x: " + b"y" * (HEAD_BYTES - 100)], 200),
        ([b"x: " + b"y" * HEAD_BYTES], 431),
    ],
)
def test_limits_of_a_head(strict: RunningServer, lines: list[bytes], status: int) -> None:
    (answer,) = talk(strict, get(b"/v1/models", CLOSE, *lines))
    assert answer.status == status
    if status != 200:
        assert answer.error["type"] == "RequestHeadersTooLargeError"


def test_the_limit_of_a_target(strict: RunningServer) -> None:
    with running_server() as server:
        assert talk(server, get(b"/v1/models?" + b"x" * 8000, CLOSE))[0].status == 200
        assert talk(server, get(b"/v1/models?" + b"x" * 8192, CLOSE))[0].status == 414


@pytest.mark.parametrize(
    "raw",
    [
        head(HOST, JSON, LENGTH, CHUNKED_HEADER) + CHUNKS,
        head(HOST, JSON, CHUNKED_HEADER, LENGTH) + CHUNKS,
        head(HOST, JSON, LENGTH, LENGTH) + GOOD,
        head(HOST, JSON, LENGTH, b"content-length: 1") + GOOD,
        head(HOST, JSON, LENGTH.replace(b": ", b": +")) + GOOD,
        head(HOST, JSON, b"content-length: 0x%x" % len(GOOD)) + GOOD,
        head(HOST, JSON, CHUNKED_HEADER, CHUNKED_HEADER) + CHUNKS,
        head(HOST, JSON, b"transfer-encoding: gzip, chunked") + CHUNKS,
        head(HOST, JSON, b"transfer-encoding: identity") + CHUNKS,
        head(HOST, JSON, b"transfer-encoding : chunked") + CHUNKS,
        head(HOST, JSON, CHUNKED_HEADER, version=b"1.0") + CHUNKS,
        head(HOST, JSON, CHUNKED_HEADER) + b"-" + CHUNKS,
        head(HOST, JSON, CHUNKED_HEADER) + b"ffffffffffffffffff" + CHUNKS,
        head(HOST, JSON, b"content-encoding: gzip", LENGTH, CLOSE) + GOOD,
        head(HOST, target=b"http://localhost/v1/models", method=b"GET"),
        head(HOST, target=b"http://other.example/v1/models", method=b"GET"),
        head(HOST, target=b"*", method=b"OPTIONS"),
        head(HOST, target=b"localhost:80", method=b"CONNECT"),
        head(HOST, target=b"v1/models", method=b"GET"),
        head(HOST, HOST, method=b"GET", target=b"/v1/models", version=b"1.1").replace(
            b"\r\n\r\n", b"\r\n" + CLOSE + b"\r\n\r\n"
        ),
        head(CLOSE, method=b"GET", target=b"/v1/models"),
        head(HOST, b" folded: x", method=b"GET"),
        head(HOST, method=b"GET", version=b"2.0"),
        b"GET /v1/models HTTP/1.1\nhost: localhost\n\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_two_servers_could_read_differently_is_refused(strict: RunningServer, raw: bytes) -> None:
    """A proxy in front must not see another request than this server does (CWE-444, as in CVE-2026-48746)."""
    (answer,) = talk(strict, raw)
    assert answer.status == 400
    assert answer.error["type"] == "BadRequestError"


def test_pipelined_requests_are_answered_in_order(strict: RunningServer) -> None:
    found = talk(strict, get(b"/v1/version") + get(b"/nope") + post(GOOD, CLOSE))
    assert [answer.status for answer in found] == [200, 404, 200]


def test_a_pipeline_has_a_limit() -> None:
    with running_server() as server:
        server.gate.open.clear()
        with connect(server) as connection:
            connection.sendall(post() + get(b"/v1/version") * 2000)
            assert read_all(connection) == b""
        assert server.metric("connection_cut_total", reason="pipeline") == 1
        server.gate.open.set()
        server.wait_idle()


def test_garbage_behind_a_request_is_not_its_answer() -> None:
    with running_server() as server:
        server.gate.open.clear()
        with connect(server) as connection:
            connection.sendall(post())
            server.wait_for(lambda: server.service.engine.num_live == 1)
            connection.sendall(b"garbage\r\n\r\n")
            assert read_all(connection) == b""
        server.gate.open.set()
        server.wait_idle()


def test_head_and_options(strict: RunningServer) -> None:
    with connect(strict) as connection:
        connection.sendall(head(HOST, CLOSE, method=b"HEAD", target=b"/v1/models"))
        top, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert top.startswith(b"HTTP/1.1 200")
    assert body == b""
    (answer,) = talk(strict, head(HOST, CLOSE, method=b"OPTIONS"))
    assert (answer.status, "POST" in answer.headers["allow"]) == (204, True)


def test_upgrades_are_not_followed(strict: RunningServer) -> None:
    upgrade = (b"connection: upgrade, close", b"upgrade: websocket", b"sec-websocket-key: eA==")
    assert talk(strict, get(b"/v1/models", *upgrade))[0].status == 200


def test_a_client_that_does_not_read_is_cut_off_and_its_slot_is_free() -> None:
    """The answer of a client that stops reading fills one write buffer, not the memory."""
    with running_server(write_timeout_s=TIMEOUT_S) as server:
        (listener,) = server.server._listeners
        listener._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        body = b'{"messages":[{"role":"user","content":"*ab"}],"stream":true,"logprobs":true,"top_logprobs":20}'
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        with connection:
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(post(body))
            server.wait_for(lambda: server.metric("connection_cut_total", reason="write_timeout") == 1)
            server.wait_for(lambda: server.service.engine.num_live == 0)
            assert len(read_all(connection)) < 256 * 1024
        server.wait_idle()


def test_many_answers_to_a_client_that_does_not_read_take_one_buffer() -> None:
    with running_server(write_timeout_s=TIMEOUT_S) as server:
        size = len(server.get("/openapi.json").content)
        server.server._listeners[0]._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(get(b"/openapi.json") * 60)
            largest = 0
            while server.metric("connection_cut_total", reason="write_timeout") == 0:
                for protocol in list(server.server.server_state.connections):
                    largest = max(largest, protocol.transport.get_write_buffer_size())
                time.sleep(0.005)
        assert largest < 64 * 1024 + 2 * size


def test_a_crowd_of_silent_connections_shuts_nobody_out() -> None:
    with running_server(max_connections=8) as server, contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(connect(server))
        assert [answer.status for answer in talk(server, post(GOOD, CLOSE))] == [200]
        assert server.metric("connection_cut_total", reason="made_room") >= 90
        assert server.metric("connections_open") <= 8


def test_when_all_connections_are_at_work_probes_still_answer(caplog: pytest.LogCaptureFixture) -> None:
    with running_server(max_connections=3) as server, contextlib.ExitStack() as stack:
        server.http.close()  # its idle connection would count
        server.gate.open.clear()
        busy = [stack.enter_context(connect(server)) for _ in range(3)]
        for connection in busy:
            connection.sendall(post(GOOD, CLOSE))
        server.wait_for(lambda: server.service.engine.num_live == 3)
        (answer,) = talk(server, post())
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert answer.error["type"] == "ServiceUnavailableError"
        for _ in range(40):  # more than are reserved: the oldest of them give way
            stack.enter_context(connect(server))
        for path in (b"/v1/health/live", b"/v1/health/ready/", b"/v1/metrics", b"/metrics?x"):
            (answer,) = talk(server, get(path))
            assert (answer.status, answer.headers["connection"]) == (200, "close")
        server.gate.open.set()
        assert [answers(read_all(connection))[0].status for connection in busy] == [200] * 3
    lines = [record.getMessage() for record in caplog.records if record.name == "powertrain.connections"]
    assert lines == ["all 3 connections are taken (--max-connections)"]


@contextlib.contextmanager
def _no_descriptor_left() -> Iterator[None]:
    """Use up every descriptor of this process, which is the server's too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY)]
    largest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (largest + 1, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)


def test_probes_answer_when_no_descriptor_is_left(caplog: pytest.LogCaptureFixture) -> None:
    with running_server() as server, contextlib.ExitStack() as stack:
        server.http.close()
        server.gate.open.clear()
        clients = [stack.enter_context(socket.socket()) for _ in range(60)]
        busy = [stack.enter_context(connect(server)) for _ in range(2)]
        for connection in busy:
            connection.sendall(post(GOOD, CLOSE))
        server.wait_for(lambda: server.service.engine.num_live == 2)

        def ask(raw: bytes) -> int:
            client = clients.pop()
            client.settimeout(20)
            client.connect(("127.0.0.1", server.port))
            client.sendall(raw)
            return answers(read_all(client))[0].status

        with _no_descriptor_left():
            for path in (b"/v1/health/live", b"/v1/health/ready", b"/v1/metrics"):
                assert ask(get(path, CLOSE)) == 200
            for _ in range(40):
                clients.pop().connect(("127.0.0.1", server.port))  # silent, and more than the spare descriptors
            for path in (b"/v1/health/live", b"/v1/health/ready", b"/v1/metrics"):
                assert ask(get(path, CLOSE)) == 200
            assert server.metric("connection_cut_total", reason="no_descriptor") > 0
        server.gate.open.set()
        assert [answers(read_all(connection))[0].status for connection in busy] == [200] * 2
        spare = server.server._spare
        server.wait_for(lambda: spare is not None and len(spare._held) == 16)
    lines = [record.getMessage() for record in caplog.records if record.name == "powertrain.connections"]
    assert lines == ["no descriptor is left for a connection: Too many open files; raise the limit (ulimit -n)"]


def test_the_management_port_serves_probes_only(strict: RunningServer) -> None:
    with running_server(management_port=0, max_connections=1) as server:
        assert server.management_port is not None
        with connect(server) as busy:
            server.gate.open.clear()
            busy.sendall(post(GOOD, CLOSE))
            server.wait_for(lambda: server.service.engine.num_live == 1)
            for _ in range(20):
                (answer,) = talk(server, get(b"/v1/health/ready"), port=server.management_port)
                assert answer.status == 200
            (answer,) = talk(server, post(), port=server.management_port)
            assert answer.status == 404
            assert answer.error["message"] == "This port serves health and metrics only."
            server.gate.open.set()
            assert answers(read_all(busy))[0].status == 200
