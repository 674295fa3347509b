"""A package served in this process on a free port, for measurements that look into the event loop."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from api.process.launch import bind, build_service
from api.process.server import Server
from api.server_settings import Settings
from runtime.package.manifest import load_package


@contextlib.contextmanager
def real_server(folder: Path, settings: Settings) -> Iterator[tuple[Server, int]]:
    """The running server and its port, once it is ready."""
    server = Server(build_service(settings, load_package(folder)))
    sock = bind(settings.host, 0)
    port = int(sock.getsockname()[1])
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    try:
        while not is_ready(port):
            time.sleep(0.05)
        yield server, port
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        sock.close()


def is_ready(port: int) -> bool:
    """True when the server on a port answers that it is ready."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v1/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
