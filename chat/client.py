"""Requests to one endpoint. Knows HTTP and its failures; knows no history and shows nothing."""

from __future__ import annotations

import ssl
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import msgspec

from chat.endpoint import CHAT_PATH, Endpoint
from chat.errors import AnswerError
from chat.plain_text import one_line
from chat.wire import MAX_EVENT_BYTES, NOT_JSON, Event, error_text, read_stream, read_whole

_CONNECT_S, _SILENCE_S = 10.0, 600.0
_KEY_ADVICE = "give the key with --api-key, or in OPENAI_API_KEY (https or this machine only)"


class _Model(msgspec.Struct):
    id: str
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model that an endpoint serves; ``context`` is its longest conversation in tokens, None where not told."""

    name: str
    context: int | None


def http_client(endpoint: Endpoint, timeout: httpx.Timeout | None = None) -> httpx.Client:
    """A client for one endpoint. Proxies of the environment are for what lies beyond this machine.

    Reading the certificates that it trusts takes as long as all else at the start, so plain HTTP goes without any.
    """
    verify = True if endpoint.url.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.Client(verify=verify, timeout=timeout, trust_env=not endpoint.is_local)


class ChatClient:
    """Asks one endpoint. Use it as a context manager. Every failure is an AnswerError."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        timeout = httpx.Timeout(_SILENCE_S, connect=_CONNECT_S)
        self._http = http_client(endpoint, timeout)

    def __enter__(self) -> ChatClient:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._http.close()

    def use_key(self, key: str) -> None:
        """Send this key from now on."""
        self.endpoint = replace(self.endpoint, key=key)

    def models(self) -> list[ModelEntry]:
        """What the endpoint serves, its first choice first."""
        url = self.endpoint.url + "/models"
        with self._reached(), self._http.stream("GET", url, headers=self._headers()) as response:
            body = _bounded(response)
        if response.status_code != httpx.codes.OK:
            raise _refusal(response.status_code, body, response.headers)
        try:
            found = msgspec.json.decode(body, type=_Models).data
        except NOT_JSON as error:
            raise AnswerError(f"{self.endpoint.url}/models is no list of models; name one with --model") from error
        return [ModelEntry(model.id, model.max_model_len) for model in found]

    def ask(self, body: dict[str, Any]) -> Generator[Event, None, None]:
        """The events of one answer as they come; closing the iterator closes the connection, which ends the answer."""
        try:
            content = msgspec.json.encode(body)
        except UnicodeEncodeError as error:
            raise AnswerError("the question, or what goes with it, is not UTF-8") from error
        headers = self._headers() | {"Content-Type": "application/json"}
        url = self.endpoint.url + CHAT_PATH
        with self._reached(), self._http.stream("POST", url, content=content, headers=headers) as response:
            if response.status_code != httpx.codes.OK:
                raise _refusal(response.status_code, _bounded(response), response.headers)
            if response.headers.get("content-type", "").startswith("text/event-stream"):
                yield from read_stream(response.iter_bytes())
            else:
                yield from read_whole(_bounded(response))

    def _headers(self) -> dict[str, str]:
        key = self.endpoint.key
        return {"User-Agent": "powertrain-chat"} | ({} if key is None else {"Authorization": f"Bearer {key}"})

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise AnswerError(f"nothing answers at {self.endpoint.url}: {one_line(str(error))}") from error
        except (httpx.InvalidURL, UnicodeError) as error:  # names that no server can have
            raise AnswerError(f"{self.endpoint.url} is no address: {one_line(str(error))}") from error
        except httpx.TimeoutException as error:
            raise AnswerError(f"{self.endpoint.url} did not answer in time") from error
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise AnswerError(f"the connection broke: {one_line(str(error)) or 'it was closed'}") from error


def _bounded(response: httpx.Response) -> bytes:
    body = bytearray()
    for block in response.iter_bytes():
        body += block
        if len(body) > MAX_EVENT_BYTES:
            raise AnswerError(f"the endpoint sent a body of more than {MAX_EVENT_BYTES} bytes")
    return bytes(body)


def _refusal(status: int, body: bytes, headers: httpx.Headers) -> AnswerError:
    """One line: what the endpoint said, and what a person can do."""
    said = error_text(body)
    if status == httpx.codes.UNAUTHORIZED:
        return AnswerError(f"the endpoint wants a key ({said}); {_KEY_ADVICE}", status)
    if status in {httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE}:
        wait = one_line(headers.get("retry-after", ""), 40)
        after = f" in {wait} s" if wait.isdigit() else f" after {wait}" if wait else ""
        return AnswerError(f"{said} (HTTP {status}); /retry asks again, best{after or ' later'}", status)
    if status == httpx.codes.BAD_REQUEST and "context" in said:
        return AnswerError(f"{said}; /undo or /clear makes room", status)
    return AnswerError(f"{said} (HTTP {status})", status)
