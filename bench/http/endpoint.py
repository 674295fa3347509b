"""Where an endpoint is and what a request to it looks like on the wire. Opens nothing and measures nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

import msgspec

from bench.errors import BenchError

CHAT_PATH = "/chat/completions"


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message: a role and its text."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An OpenAI-compatible endpoint. ``base`` is the path of the API without a trailing slash, such as ``/v1``."""

    label: str
    host: str
    port: int
    tls: bool
    base: str
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def url(self) -> str:
        """The endpoint's address as a person writes it."""
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}{self.base}"


def endpoint_from_url(url: str, *, label: str | None = None, headers: tuple[tuple[str, str], ...] = ()) -> Endpoint:
    """Parse ``http[s]://host[:port][/v1[/chat/completions]]``; a missing path means ``/v1``. Raises BenchError."""
    try:
        parts = urlsplit(url)
    except ValueError:  # half of a bracket, or a name that is another one when it is normalized
        raise BenchError("that is no address; give http://HOST:PORT or https://HOST[:PORT][/v1]") from None
    try:
        port = parts.port
    except ValueError as error:
        raise BenchError(f"{url!r} has a bad port; ports are 1..65535") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise BenchError(f"{url!r} is not an endpoint; give http://HOST:PORT or https://HOST[:PORT][/v1]")
    if parts.query or parts.fragment or parts.username:
        raise BenchError(f"{url!r} holds a query, fragment or user; give only scheme, host, port and path")
    tls = parts.scheme == "https"
    base = parts.path.rstrip("/").removesuffix(CHAT_PATH)
    return Endpoint(
        label=label or url,
        host=parts.hostname,
        port=port or (443 if tls else 80),
        tls=tls,
        base=base or "/v1",
        headers=headers,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """The part of a chat request that all requests of a run share. ``extra`` is merged in last and may override.

    ``model`` is empty until the endpoint was asked which models it serves.
    """

    model: str
    temperature: float | None = 0.0
    ignore_eos: bool = False
    usage: bool = True
    continuous_usage: bool = False
    extra: dict[str, object] = field(default_factory=dict)


def chat_body(options: ChatOptions, messages: tuple[Message, ...], max_tokens: int) -> bytes:
    """JSON body of a streaming chat completion request."""
    body: dict[str, object] = {
        "model": options.model,
        "messages": [{"role": message.role, "content": message.content} for message in messages],
        "max_tokens": max_tokens,
        "stream": True,
    }
    if options.temperature is not None:
        body["temperature"] = options.temperature
    if options.ignore_eos:
        body["ignore_eos"] = True
    if options.usage:
        body["stream_options"] = {"include_usage": True}
        if options.continuous_usage:
            body["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    body.update(options.extra)
    return msgspec.json.encode(body)


def http_request(endpoint: Endpoint, method: str, path: str, body: bytes = b"", accept: str = "*/*") -> bytes:
    """The bytes of an HTTP/1.1 request with a known length on a kept-alive connection."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    lines = [
        f"{method} {endpoint.base}{path} HTTP/1.1",
        f"Host: {host}:{endpoint.port}",
        "User-Agent: powertrain-bench",
        f"Accept: {accept}",
        *(f"{name}: {value}" for name, value in endpoint.headers),
    ]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
