"""The first and the last step that the generation endpoints share: reading the body, and the answer's frame."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

from litestar import Request
from litestar.types import ASGIApp, Receive, Scope, Send
from runtime.request import Request as EngineRequest
from runtime.text.text_stream import TextRules, TextStream

from api.client_gone import unless_gone
from api.controllers.service import Service
from api.edge.access import API_KEY_NAME_KEY, IGNORED_KEY, RECORD_KEY, REQUEST_ID_KEY
from api.observe.request_record import RequestRecord
from api.request.byte_budget import Hold
from api.request.json_body import check_content_type, read_body
from api.request.sampling_fields import SamplingFields
from api.request.turns import INLINE_BYTES
from api.response.answering import Answer
from api.response.generation import Generation
from api.response.renderer import Renderer

AnyRequest = Request[Any, Any, Any]
Result = TypeVar("Result")

HOLD_KEY = "powertrain_hold"
_BYTES_PER_PROMPT_TOKEN = 40  # a Python integer and its place in a tuple
_MAX_HEADER_CHARS = 1024


async def receive_body(request: AnyRequest, service: Service) -> bytes:
    """The request's body. Raises RequestError, BodyTooLargeError, Overloaded or ClientGoneError."""
    headers = request.headers
    check_content_type(headers.get("content-type"), headers.get("content-encoding"))
    hold = request.scope["state"][HOLD_KEY] = service.reception.budget.hold()
    limit_bytes = service.reception.limits.max_bytes
    return await read_body(request.receive, headers.get("content-length"), limit_bytes, hold)


async def in_turn(
    request: AnyRequest, service: Service, size_bytes: int, work: Callable[[], Coroutine[Any, Any, Result]]
) -> Result:
    """What ``work`` makes of a body of ``size_bytes``; work on a large one waits for its turn.

    Raises ClientGoneError when the client leaves meanwhile, Overloaded when too much work waits.
    """
    if size_bytes <= INLINE_BYTES:
        return await work()
    return await unless_gone(request.receive, service.reception.turns.take(size_bytes, work))


def releasing(app: ASGIApp) -> ASGIApp:
    """``app``, with what each request holds of the budget given back at its end, however it ends."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        finally:
            hold: Hold | None = scope.get("state", {}).get(HOLD_KEY)
            if hold is not None:
                hold.release()

    return serve


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
    request: AnyRequest,
    service: Service,
    requests: Sequence[EngineRequest],
    rules: TextRules,
    record: RequestRecord,
) -> Generation:
    """Submit to the engine. Raises Overloaded or EngineUnavailable, before any byte of an answer."""
    hold: Hold = request.scope["state"][HOLD_KEY]
    hold.resize(record.num_prompt_tokens * _BYTES_PER_PROMPT_TOKEN)
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
