"""A registry on loopback that follows the OCI distribution protocol to the letter and fails when it is told to.

It takes a blob only whole and under its own digest, a manifest only when all of its blobs are there, an upload's place
only once; it wants a token where ``password`` is set, and notes every request as ``METHOD path``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
USER = "someone"
TOKEN = "a-token-for-this-repository"
IDENTITY = "what-a-login-left"
PATH = re.compile(r"/v2/(?P<name>[a-z0-9/_-]+)/(?P<kind>blobs|manifests)/(?P<rest>.+)")


class StrictRegistry:
    """What the registry holds, what it was asked, and how it shall fail.

    ``cut_after`` bytes of the blob ``cutting`` it hangs up, once for each number there. ``elsewhere`` makes it send
    readers and writers of blobs to its other name. ``altered`` blobs come with their first byte changed.
    """

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.ranges: list[str] = []
        self.uploads: set[str] = set()
        self.cutting = ""
        self.cut_after: list[int] = []
        self.failing: list[int] = []
        self.altered: set[str] = set()
        self.password: str | None = None
        self.basic = False
        self.realm = ""
        self.ignores_ranges = False
        self.elsewhere = False
        self.logins_elsewhere: list[str] = []
        self.tokens_given = 0
        self.address = ""

    def count(self, start: str) -> int:
        return sum(line.startswith(start) for line in self.asked)


@contextmanager
def running_registry() -> Iterator[StrictRegistry]:
    registry = StrictRegistry()
    handler = type("Handler", (_Handler,), {"registry": registry})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        registry.address = f"127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield registry
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    registry: StrictRegistry
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/token":
            self._token(parse_qs(parts.query))
        elif parts.path.startswith("/elsewhere/"):
            self.registry.asked.append("GET elsewhere")
            self.registry.logins_elsewhere += self.headers.get_all("Authorization", [])
            self._blob(parts.path.removeprefix("/elsewhere/"))
        else:
            self._v2()

    def do_HEAD(self) -> None:
        self._v2()

    def do_POST(self) -> None:
        if self.path == "/token":
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            is_known = (form["grant_type"], form["refresh_token"]) == (["refresh_token"], [IDENTITY])
            self._answer(200, json.dumps({"access_token": TOKEN}).encode()) if is_known else self._answer(401, b"{}")
        else:
            self._v2()

    def do_PUT(self) -> None:
        self._v2()

    def log_message(self, *_: Any) -> None: ...

    def _v2(self) -> None:
        url = urlsplit(self.path)
        found = PATH.fullmatch(url.path)
        body = self.rfile.read(int(self.headers["Content-Length"])) if self.command in {"POST", "PUT"} else b""
        self.registry.asked.append(f"{self.command} {url.path}")
        if self.registry.failing:
            self._answer(self.registry.failing.pop(0), self._problem("TROUBLE", "for a moment"))
        elif found is None:
            self._answer(404, self._problem("NAME_UNKNOWN", "no such route"))
        elif self.command == "PUT" and self.headers["Host"].startswith("localhost"):
            self.registry.logins_elsewhere += self.headers.get_all("Authorization", [])
            self._upload(url.path, parse_qs(url.query), body)
        elif not self._is_known():
            self._challenge(found["name"])
        elif found["kind"] == "manifests":
            self._manifest(found["rest"], body)
        elif found["rest"] == "uploads/" and self.command == "POST":
            place = f"{url.path}{len(self.registry.asked)}"
            self.registry.uploads.add(place)
            host = f"http://localhost:{self.registry.address.rpartition(':')[2]}" if self.registry.elsewhere else ""
            self._answer(202, headers={"Location": f"{host}{place}?state=a%2Fb"})
        elif self.command == "PUT":
            self._upload(url.path, parse_qs(url.query), body)
        else:
            self._blob(found["rest"])

    def _is_known(self) -> bool:
        given, password = self.headers.get("Authorization"), self.registry.password
        login = base64.b64encode(f"{USER}:{password}".encode()).decode()
        return password is None or given == (f"Basic {login}" if self.registry.basic else f"Bearer {TOKEN}")

    def _challenge(self, name: str) -> None:
        place = self.registry.realm or f"http://{self.registry.address}/token"
        realm = f'Bearer realm="{place}",service="strict",scope="repository:{name}:pull"'
        value = 'Basic realm="strict"' if self.registry.basic else realm
        self._answer(401, self._problem("UNAUTHORIZED", "log in"), {"WWW-Authenticate": value})

    def _token(self, query: dict[str, list[str]]) -> None:
        login = base64.b64encode(f"{USER}:{self.registry.password}".encode()).decode()
        assert query["service"] == ["strict"]
        assert query["scope"][0].startswith("repository:")
        if self.headers.get("Authorization") != f"Basic {login}":
            self._answer(401, b"{}")
            return
        self.registry.tokens_given += 1
        self._answer(200, json.dumps({"token": TOKEN}).encode())

    def _manifest(self, wanted: str, body: bytes) -> None:
        registry = self.registry
        if self.command == "PUT":
            manifest = json.loads(body)
            named = [manifest["config"], *manifest["layers"]]
            assert self.headers["Content-Type"] == manifest["mediaType"] == MANIFEST
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
            if any(len(registry.blobs.get(blob["digest"], b"")) != blob["size"] for blob in named):
                self._answer(400, self._problem("MANIFEST_BLOB_UNKNOWN", "a blob is missing"))
                return
            registry.manifests |= {digest: body, wanted: body}
            self._answer(201, headers={"Docker-Content-Digest": digest})
        elif wanted in registry.manifests and MANIFEST in self.headers["Accept"]:
            self._answer(200, registry.manifests[wanted], {"Content-Type": MANIFEST})
        else:
            self._answer(404, self._problem("MANIFEST_UNKNOWN", "manifest unknown"))

    def _upload(self, place: str, query: dict[str, list[str]], body: bytes) -> None:
        assert query["state"] == ["a/b"], "the query of an upload's place is to be kept"
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        if place not in self.registry.uploads or query["digest"] != [digest]:
            self._answer(400, self._problem("DIGEST_INVALID", "not the digest of these bytes"))
            return
        self.registry.uploads.remove(place)
        self.registry.blobs[digest] = body
        self._answer(201, headers={"Location": f"/v2/x/blobs/{digest}"})

    def _blob(self, digest: str) -> None:
        registry, data = self.registry, self.registry.blobs.get(digest)
        if data is None:
            self._answer(404, self._problem("BLOB_UNKNOWN", "blob unknown"))
            return
        if registry.elsewhere and self.path.startswith("/v2/") and self.command == "GET":
            host = f"localhost:{registry.address.rpartition(':')[2]}"
            self._answer(307, headers={"Location": f"http://{host}/elsewhere/{digest}"})
            return
        if digest in registry.altered:
            data = bytes([data[0] ^ 1]) + data[1:]
        asked = self.headers.get("Range")
        if self.command == "GET" and asked is not None:
            registry.ranges.append(asked)
        if asked is None or registry.ignores_ranges:
            self._answer(200, data, cut=digest == registry.cutting)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        span = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._answer(206, data[start:], {"Content-Range": span}, cut=digest == registry.cutting)

    def _answer(
        self, status: int, body: bytes = b"", headers: dict[str, str] | None = None, *, cut: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut and self.registry.cut_after:
            self.wfile.write(body[: self.registry.cut_after.pop(0)])
            self.close_connection = True
        else:
            self.wfile.write(body)

    @staticmethod
    def _problem(code: str, message: str) -> bytes:
        return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


def where(registry: StrictRegistry, rest: str = ":1") -> str:
    """A reference to the one package there; ``rest`` is its tag or digest."""
    return f"oci://{registry.address}/team/tiny{rest}"
