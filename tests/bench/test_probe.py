"""``powertrain probe`` against a socket that answers what it is told to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from click.testing import CliRunner

import powertrain
from bench.commands.probe import health_status
from bench.errors import BenchError
from runtime.commands.surroundings import ServerAddress


@contextmanager
def answering(status: str) -> Iterator[tuple[int, list[bytes]]]:
    """(port, request lines seen) of a server that answers one request; an empty status hangs up."""
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                seen.append(connection.recv(4096).split(b"\r\n")[0])
                if status:
                    connection.sendall(f"HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n".encode())

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield listener.getsockname()[1], seen
        thread.join(timeout=10)


@pytest.mark.parametrize(
    ("words", "status", "code", "path"),
    [
        ([], "200 OK", 0, "/v1/health/ready"),
        (["--live"], "200 OK", 0, "/v1/health/live"),
        ([], "503 Service Unavailable", 1, "/v1/health/ready"),
        ([], "", 1, "/v1/health/ready"),
    ],
)
def test_the_exit_status_is_the_server_s_state(words: list[str], status: str, code: int, path: str) -> None:
    with answering(status) as (port, seen):
        # The server's own environment: it listens everywhere, by NIM's name of the port.
        environ = {"POWERTRAIN_HOST": "0.0.0.0", "POWERTRAIN_API_KEY": "k", "NIM_SERVER_PORT": str(port)}
        done = CliRunner().invoke(powertrain.main, ["probe", *words], env=environ)
    assert done.exit_code == code, done.output
    assert seen == [f"GET {path} HTTP/1.1".encode()]
    if code:
        assert ("answered 503" if status else "no answer from 127.0.0.1") in " ".join(done.output.split())


def test_nobody_listens() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets the port
        port = sock.getsockname()[1]
        done = CliRunner().invoke(powertrain.main, ["probe", "--port", str(port)])
    assert done.exit_code == 1
    said = " ".join(done.output.replace("│", " ").split())
    assert f"no answer from 127.0.0.1:{port}" in said
    assert "--port names another port" in said


def test_a_port_that_only_the_server_knows() -> None:
    with pytest.raises(BenchError, match="name it with --port"):
        health_status(ServerAddress(port=0), "/v1/health/ready", 1.0)


def test_settings_that_do_not_fit_are_one_line() -> None:
    done = CliRunner().invoke(powertrain.main, ["probe"], env={"POWERTRAIN_PORT": "tcp://10.0.0.1:8000"})
    assert done.exit_code == 1
    assert "port (from POWERTRAIN_PORT)" in " ".join(done.output.split())
