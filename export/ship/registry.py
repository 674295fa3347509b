"""A registry that speaks the OCI distribution protocol (version 1.1), as a place where artifacts lie.

Over ``httpx``, because the kept library for Python (``oras``) cannot go on with a broken download. Plain HTTP is spoken
inside this machine, elsewhere where it is asked for, whoever redirects. A login goes to the registry alone, never where
it redirects to.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import urljoin

import httpx
import msgspec

from export.errors import TransferError
from export.ship.artifact import MANIFEST_TYPE, MAX_MANIFEST_BYTES
from export.ship.credentials import find_credentials
from export.ship.depot import BlobStream, Interrupted
from export.ship.reference import Reference, is_local_place
from export.ship.registry_login import answer_challenge

_TIMEOUT = httpx.Timeout(60.0, connect=15.0)
_HUB_HOST, _HUB_API = "docker.io", "registry-1.docker.io"
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_MAX_REDIRECTS = 5
_MAX_ERROR_BYTES = 2**16

Blocks = Callable[[], Iterator[bytes]]


class _Problem(msgspec.Struct, frozen=True):
    code: str = ""
    message: str = ""


class _Problems(msgspec.Struct, frozen=True):
    errors: tuple[_Problem, ...] = ()


class Registry:
    """One repository of a registry. Close it, or use it in a ``with`` block."""

    def __init__(self, reference: Reference, docker_config: Path | None, *, plain_http: bool = False) -> None:
        self._host, self._name, self._config = reference.place, reference.name, docker_config
        self._plain_http = plain_http
        api = _HUB_API if reference.place == _HUB_HOST else reference.place
        self._base = f"{'http' if plain_http or is_local_place(reference.place) else 'https'}://{api}/v2/{self._name}/"
        self._login = ""
        self._client = httpx.Client(
            timeout=_TIMEOUT,
            verify=_certificates(),
            max_redirects=_MAX_REDIRECTS,
            event_hooks={"request": [self._check_way]},
        )

    def __enter__(self) -> Registry:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self._client.close()

    def read_manifest(self, wanted: str) -> bytes:
        """See ``Depot``."""
        with self._send("GET", f"manifests/{wanted}", headers={"Accept": MANIFEST_TYPE}) as response:
            self._expect(response, 200, f"{self._host} has no {self._name}:{wanted}")
            return self._body(response, MAX_MANIFEST_BYTES)

    @contextmanager
    def read_blob(self, digest: str, start: int) -> Iterator[BlobStream]:
        """See ``Depot``."""
        asked = {"Range": f"bytes={start}-"} if start else {}
        with self._send("GET", f"blobs/{digest}", headers={"Accept-Encoding": "identity", **asked}) as response:
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise Interrupted(f"{self._host} has another length for {digest[:19]}")
            self._expect(response, 206 if response.status_code == httpx.codes.PARTIAL_CONTENT else 200,
                         f"{self._host} has no blob {digest[:19]} for {self._name}")  # fmt: skip
            yield BlobStream(_start_of(response), response.iter_raw())  # as they come: none waits in a buffer

    def has_blob(self, digest: str, size: int) -> bool:
        """See ``Depot``."""
        with self._send("HEAD", f"blobs/{digest}", headers={"Accept-Encoding": "identity"}) as response:
            if response.status_code == httpx.codes.NOT_FOUND:
                return False
            self._expect(response, 200, "")
            length = response.headers.get("Content-Length", str(size))
            return bool(length == str(size))

    def write_blob(self, digest: str, size: int, blocks: Blocks) -> None:
        """See ``Depot``. One request carries the whole blob."""
        with self._send("POST", "blobs/uploads/", headers={"Content-Length": "0"}) as response:
            self._expect(response, 202, f"{self._host} takes no uploads for {self._name}")
            where = response.url.join(response.headers.get("Location", ""))
        url = where.copy_merge_params({"digest": digest})
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        with self._send("PUT", str(url), headers=headers, blocks=blocks) as response:
            self._expect(response, 201, f"{self._host} gave up an upload for {self._name}")

    def write_manifest(self, data: bytes, digest: str, tag: str | None) -> None:
        """See ``Depot``."""
        headers = {"Content-Type": MANIFEST_TYPE, "Content-Length": str(len(data))}
        with self._send("PUT", f"manifests/{tag or digest}", headers=headers, blocks=lambda: iter([data])) as response:
            self._expect(response, 201, f"{self._host} has no repository {self._name}")

    @contextmanager
    def _send(
        self, method: str, where: str, *, headers: Mapping[str, str], blocks: Blocks | None = None
    ) -> Iterator[httpx.Response]:
        """An answer whose body is not read yet. Logs in where that is asked for, once."""
        try:
            response = self._request(method, where, headers, blocks)
            if response.status_code == httpx.codes.UNAUTHORIZED and self._is_ours(response.url):
                self._log_in(response)
                response = self._request(method, where, headers, blocks)
            try:
                yield response
            finally:
                response.close()
        except httpx.TooManyRedirects as error:
            raise TransferError(f"{self._host} redirects in a circle") from error
        except httpx.TransportError as error:
            raise Interrupted(f"{self._host} cannot be reached ({_reason(error)})") from error
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise TransferError(f"{self._host} named an address that is none") from error

    def _request(self, method: str, where: str, headers: Mapping[str, str], blocks: Blocks | None) -> httpx.Response:
        url = httpx.URL(urljoin(self._base, where))
        login = {"Authorization": self._login} if self._login and self._is_ours(url) else {}
        content = None if blocks is None else blocks()
        request = self._client.build_request(method, url, headers={**headers, **login}, content=content)
        return self._client.send(request, stream=True, follow_redirects=method in {"GET", "HEAD"})

    def _log_in(self, refused: httpx.Response) -> None:
        challenge = refused.headers.get("WWW-Authenticate", "")
        refused.close()
        scope = f"repository:{self._name}:pull,push" if refused.request.method not in {"GET", "HEAD"} else ""
        self._login = answer_challenge(
            self._client,
            self._host,
            challenge,
            scope or f"repository:{self._name}:pull",
            lambda: find_credentials(self._config, self._host),
            plain_http=self._plain_http,
        )

    def _check_way(self, request: httpx.Request) -> None:
        """Raise TransferError for plain HTTP that nobody asked for, be it by a redirect or the place of an upload."""
        is_local = is_local_place(self._host) and is_local_place(request.url.netloc.decode("ascii"))
        if request.url.scheme != "https" and not self._plain_http and not is_local:
            raise TransferError(f"{self._host} leads to {request.url.host[:200]!r} without TLS, where nothing is sent")

    def _is_ours(self, url: httpx.URL) -> bool:
        base = httpx.URL(self._base)
        return (url.scheme, url.host, url.port) == (base.scheme, base.host, base.port)

    def _expect(self, response: httpx.Response, status: int, missing: str) -> None:
        """Raise Interrupted or TransferError, with the registry's own words, unless it answered with ``status``."""
        found = response.status_code
        if found == status:
            return
        if found in _AGAIN:
            raise Interrupted(f"{self._host} answered with status {found}")
        if found in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            raise TransferError(f"{self._host} does not let us at {self._name}; run 'docker login {self._host}'")
        words = self._words(response)
        if found == httpx.codes.NOT_FOUND and missing:
            raise TransferError(missing + words)
        raise TransferError(f"{self._host} answered with status {found}{words}")

    def _words(self, response: httpx.Response) -> str:
        """What the registry says went wrong, as the end of a sentence; nothing where it says nothing readable."""
        try:
            problems = msgspec.json.decode(self._body(response, _MAX_ERROR_BYTES), type=_Problems).errors
        except (msgspec.MsgspecError, UnicodeDecodeError, TransferError):
            return ""
        said = "; ".join(f"{one.code} {one.message}".strip() for one in problems)[:200]
        return f" ({said})" if said and said.isprintable() else ""

    def _body(self, response: httpx.Response, most: int) -> bytes:
        data = bytearray()
        for block in response.iter_bytes():
            data += block
            if len(data) > most:
                raise TransferError(f"{self._host} gave more than {most} bytes for a manifest")
        return bytes(data)


@cache
def _certificates() -> ssl.SSLContext:
    """What TLS is checked against: reading it takes longer than a small pull."""
    return httpx.create_ssl_context()


def _start_of(response: httpx.Response) -> int:
    """Where the answer's bytes begin in the blob."""
    if response.status_code != httpx.codes.PARTIAL_CONTENT:
        return 0
    unit, _, rest = response.headers.get("Content-Range", "").partition(" ")
    first = rest.partition("-")[0]
    if unit != "bytes" or not first.isdecimal():
        raise Interrupted("the registry gave a part of a blob and does not say which")
    return int(first)


def _reason(error: httpx.TransportError) -> str:
    return (str(error) or type(error).__name__)[:200]
