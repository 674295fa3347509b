"""What happens to a server's clients when it is told to stop, is killed, or runs out of handles, under load.

``make chaos`` runs these with the tests of the same kind that live beside their subjects: docs/reliability.md has the
table.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import signal
import socket
import time

import httpx
import pytest

from tests.api.scripted_server import chunks_of, content_of, user
from tests.reliability.server_process import ServerProcess, server_process

pytestmark = pytest.mark.chaos


def stream(server: ServerProcess, num_tokens: int) -> httpx.Response:
    body = {"messages": [user("*abcd")], "max_tokens": num_tokens, "stream": True, "temperature": 0}
    return httpx.post(f"{server.base_url}/v1/chat/completions", json=body, timeout=20)


def wait_for_running(server: ServerProcess, count: int) -> None:
    deadline = time.monotonic() + 20
    while server.gauge("num_requests_running") < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_terminated_under_load_it_ends_every_answer_and_exits_with_0() -> None:
    with server_process(step_s=0.01) as server, concurrent.futures.ThreadPoolExecutor(8) as pool:
        streams = [pool.submit(stream, server, 40) for _ in range(6)]
        wait_for_running(server, 4)
        server.process.send_signal(signal.SIGTERM)
        assert [content_of(chunks_of(one.result().content)) for one in streams] == ["abcd" * 10] * 6
        assert server.process.wait(20) == 0


def test_killed_under_load_its_clients_learn_at_once_and_its_port_is_free() -> None:
    with server_process(step_s=0.01) as server, concurrent.futures.ThreadPoolExecutor(8) as pool:
        streams = [pool.submit(stream, server, 200) for _ in range(4)]
        wait_for_running(server, 4)
        server.process.kill()
        for one in streams:
            with pytest.raises(httpx.TransportError):
                one.result(5)
        server.process.wait(5)
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", server.port))


def test_out_of_handles_it_keeps_its_streams_and_serves_again_when_some_are_free() -> None:
    limit = "resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))"
    with server_process(step_s=0.01, before=limit) as server, concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(stream, server, 80)
        wait_for_running(server, 1)
        with contextlib.ExitStack() as connections:
            for _ in range(60):
                connections.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5))
            assert content_of(chunks_of(running.result().content)) == "abcd" * 20
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{server.base_url}/v1/health/ready", timeout=2).status_code == 200:
                    break
            assert time.monotonic() < deadline
        assert content_of(chunks_of(stream(server, 8).content)) == "abcdabcd"
        assert server.process.poll() is None
