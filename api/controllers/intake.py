"""The first and the last step that the generation endpoints share: reading the body, and the answer's frame."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from litestar import Request
from runtime.request import Request as EngineRequest
from runtime.text.text_stream import TextRules, TextStream

from api.controllers.service import Service
from api.edge.access import API_KEY_NAME_KEY, IGNORED_KEY, RECORD_KEY, REQUEST_ID_KEY
from api.observe.request_record import RequestRecord
from api.request.json_body import check_content_type, parse_object, read_body
from api.request.sampling_fields import SamplingFields
from api.response.answering import Answer
from api.response.generation import Generation
from api.response.renderer import Renderer

AnyRequest = Request[Any, Any, Any]

_MAX_HEADER_CHARS = 1024


async def read_object(request: AnyRequest, service: Service) -> dict[str, Any]:
    """The request's JSON object. Raises RequestError, BodyTooLargeError or ClientGoneError."""
    headers = request.headers
    check_content_type(headers.get("content-type"), headers.get("content-encoding"))
    limit_bytes = service.settings.max_body_bytes
    return await parse_object(await read_body(request.receive, headers.get("content-length"), limit_bytes))


def request_id_of(request: AnyRequest) -> str:
    """The id that the client gave or the server chose."""
    return str(request.scope["state"][REQUEST_ID_KEY])


def cache_salt_of(request: AnyRequest, service: Service, fields: SamplingFields) -> str:
    """What separates this request's cached prefixes from others': the key it came with and its own ``cache_salt``.

    Without keys, or when the operator lets keys share, the salt alone. No two pairs give the same text.
    """
    shares = service.settings.share_prefix_cache
    domain = "" if shares else str(request.scope["state"].get(API_KEY_NAME_KEY, ""))
    return f"{domain}:{fields.cache_salt or ''}" if domain or fields.cache_salt else ""


def new_id(prefix: str) -> str:
    """A fresh answer id: the prefix and 32 lowercase hex digits."""
    return prefix + uuid.uuid4().hex


def start_generation(
    service: Service, requests: Sequence[EngineRequest], rules: TextRules, record: RequestRecord
) -> Generation:
    """Submit to the engine. Raises Overloaded or EngineUnavailable, before any byte of an answer."""
    tokenizer = service.model.tokenizer
    return Generation(service.engine, requests, lambda: TextStream(tokenizer, rules), record.token)


def frame_answer(
    request: AnyRequest,
    service: Service,
    *,
    fields: SamplingFields,
    ignored: Sequence[str],
    record: RequestRecord,
    generation: Generation,
    renderer: Renderer,
) -> Answer:
    """The ASGI application that sends the answer."""
    state: dict[str, Any] = request.scope["state"]
    state[RECORD_KEY] = record
    state[IGNORED_KEY] = ignored
    return Answer(
        generation=generation,
        renderer=renderer,
        record=record,
        stream=bool(fields.stream),
        keep_alive_s=service.settings.keep_alive_s,
        headers=_ignored_header(ignored),
        on_end=service.note_end,
        interval=fields.stream_interval or 1,
    )


def _ignored_header(ignored: Sequence[str]) -> tuple[tuple[bytes, bytes], ...]:
    if not ignored:
        return ()
    names = ",".join(quote(name, safe="") for name in ignored)
    return ((b"x-ignored-fields", names[:_MAX_HEADER_CHARS].encode("ascii")),)
