"""An endpoint over a real socket that answers each POST with what a test wrote, byte by byte.

For what a well-behaved server never sends: refusals, broken streams, hostile texts, answers without an end.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "made-up"
TIMEOUT_S = 30


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def events(*chunks: Any, done: bool = True) -> bytes:
    lines = [b"data: " + json.dumps(item).encode() + b"\n\n" for item in chunks]
    return b"".join([*lines, b"data: [DONE]\n\n" if done else b""])


@dataclass
class Reply:
    """``hold``: after the body, wait until the client leaves."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "text/event-stream"})
    hold: bool = False


def said(*texts: str, finish: str = "stop", **more: Any) -> Reply:
    return Reply(events(*(chunk(content=text) for text in texts), {**chunk(finish), **more}))


def refused(status: int, message: str, **headers: str) -> Reply:
    return Reply(json.dumps({"error": {"message": message}}).encode(), status, headers)


@dataclass
class ScriptedEndpoint:
    url: str
    replies: list[Reply] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    models: list[dict[str, Any]] = field(default_factory=lambda: [{"id": MODEL, "max_model_len": 512}])
    wanted_key: str | None = None
    left: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def scripted_endpoint() -> Iterator[ScriptedEndpoint]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._send(Reply(json.dumps({"data": endpoint.models}).encode(), 200, {"Content-Type": "application/json"}))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            endpoint.bodies.append(json.loads(body))
            self._send(endpoint.replies.pop(0))

        def _send(self, reply: Reply) -> None:
            key = self.headers["Authorization"]
            endpoint.keys.append(key)
            if endpoint.wanted_key is not None and key != f"Bearer {endpoint.wanted_key}":
                reply = refused(401, "no such key")
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)
            self.wfile.flush()
            if reply.hold:
                self.connection.settimeout(TIMEOUT_S)
                with contextlib.suppress(ConnectionError):
                    self.connection.recv(1)
                endpoint.left.set()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        endpoint = ScriptedEndpoint(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield endpoint
        finally:
            server.shutdown()
            thread.join(TIMEOUT_S)
