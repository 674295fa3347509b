"""The OpenAPI description, made from the very structs that validate requests and encode answers.

Litestar's generator would see raw bodies only, because handlers parse them themselves (``api.request.json_body``).
Knows every route's contract; runs none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import msgspec

from api.controllers.admin import ModelStatus, ModelStatuses
from api.controllers.chat import RenderedPrompt
from api.controllers.management import HealthBody, LicenseInfo, ManifestBody, Metadata, VersionBody
from api.controllers.models import ModelCard, ModelList
from api.controllers.openapi_schemas import Interface, shown_schemas
from api.controllers.openapi_texts import TAGS, add_texts
from api.controllers.token import DetokenizeBody, DetokenizeRequest, TokenizeBody, TokenizeRequest
from api.error_answer import ErrorBody
from api.request.chat import ChatRequest
from api.request.completion import CompletionRequest
from api.request.message_request import MessageRequest
from api.request.responses import ResponsesRequest
from api.response.message_types import AnsweredMessage, MessageError, MessageEvent, TokenCount
from api.response.openai_types import ChatChunk, ChatCompletion, Completion
from api.response.response_events import StreamEvent
from api.response.response_types import Response

_REF = "#/components/schemas/{name}"
_ERRORS: Mapping[int, str] = {
    400: "The request is malformed, out of range, or does not fit the model.",
    401: "No valid API key was sent, and one is needed.",
    403: "The host is not one of this server's, or the key's role does not open this.",
    404: "The model or path does not exist.",
    408: "The request did not arrive in time.",
    409: "This cannot be done while things stand as they do.",
    413: "The body is larger than the limit.",
    414: "The request's target is longer than the limit.",
    429: "Too much waits, the client's limits are reached, or too many keys were wrong.",
    431: "The request's headers are larger or more than the limits.",
    500: "The engine failed.",
    503: "The server is loading, shutting down or has failed.",
}
_BEFORE_ROUTES = (408, 414, 431)
"""Statuses that every path may answer with, because a request is refused before its path is looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One route and method. ``answer`` is a struct type, or a media type of text; ``errors`` are its statuses.

    ``chunk`` is what a stream's events hold and ``last_event`` how a stream ends.
    """

    method: str
    path: str
    summary: str
    answer: Any
    body: Any = None
    chunk: Any = None
    last_event: str = "[DONE]"
    error_body: Any = ErrorBody
    errors: tuple[int, ...] = (401, 403)
    key: str = "key"


_ANY = Interface()
_POST_ERRORS = (400, 401, 403, 404, 413, 429)
_GENERATION_ERRORS = (*_POST_ERRORS, 500, 503)
_ADMIN_SCHEME = {"admin_key": {"type": "http", "scheme": "bearer", "description": "One of the server's admin keys."}}
_METRICS_TEXT = "text/plain"

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        method="post",
        path="/v1/chat/completions",
        summary="Answer a conversation, as one body or as server-sent events.",
        body=ChatRequest,
        answer=ChatCompletion,
        chunk=ChatChunk | ErrorBody,
        errors=_GENERATION_ERRORS,
    ),
    Operation(
        method="post",
        path="/v1/chat/completions/render",
        summary="The prompt that a chat request would run with, without generating.",
        body=ChatRequest,
        answer=RenderedPrompt,
        errors=_POST_ERRORS,
    ),
    Operation(
        method="post",
        path="/v1/completions",
        summary="Continue a prompt or several.",
        body=CompletionRequest,
        answer=Completion,
        chunk=Completion | ErrorBody,
        errors=_GENERATION_ERRORS,
    ),
    Operation(
        method="post",
        path="/v1/responses",
        summary="Answer a conversation of items, as one body or as named server-sent events. Nothing is stored.",
        body=ResponsesRequest,
        answer=Response,
        chunk=StreamEvent,
        last_event="response.completed, response.incomplete or response.failed",
        errors=_GENERATION_ERRORS,
    ),
    Operation(
        method="post",
        path="/v1/messages",
        summary="Answer a conversation in Anthropic's shapes, as one body or as named server-sent events.",
        body=MessageRequest,
        answer=AnsweredMessage,
        chunk=MessageEvent,
        last_event="message_stop or error",
        error_body=MessageError,
        errors=_GENERATION_ERRORS,
    ),
    Operation(
        method="post",
        path="/v1/messages/count_tokens",
        summary="How long the prompt of such a conversation is, without generating.",
        body=MessageRequest,
        answer=TokenCount,
        error_body=MessageError,
        errors=_POST_ERRORS,
    ),
    Operation(method="get", path="/v1/models", summary="The served names.", answer=ModelList),
    Operation(
        method="get", path="/v1/models/{model_id}", summary="One served name.", answer=ModelCard, errors=(401, 403, 404)
    ),
    Operation(
        method="post",
        path="/tokenize",
        summary="Token ids of a text or of a conversation.",
        body=TokenizeRequest | ChatRequest,
        answer=TokenizeBody,
        errors=_POST_ERRORS,
    ),
    Operation(
        method="post",
        path="/detokenize",
        summary="Text of token ids.",
        body=DetokenizeRequest,
        answer=DetokenizeBody,
        errors=_POST_ERRORS,
    ),
    Operation(
        method="get",
        path="/v1/health/live",
        summary="The process runs and its engine has not failed.",
        answer=HealthBody,
        errors=(503,),
    ),
    Operation(
        method="get", path="/v1/health/ready", summary="A request would be answered.", answer=HealthBody, errors=(503,)
    ),
    Operation(method="get", path="/v1/version", summary="Versions of product and interface.", answer=VersionBody),
    Operation(method="get", path="/v1/metadata", summary="Model, files and licence.", answer=Metadata),
    Operation(method="get", path="/v1/license", summary="The model's licence.", answer=LicenseInfo),
    Operation(method="get", path="/v1/manifest", summary="The model package's manifest.", answer=ManifestBody),
    Operation(method="get", path="/v1/metrics", summary="Prometheus metrics.", answer=_METRICS_TEXT),
)

_NAMED = "/v1/admin/models/{name}"
ADMIN_OPERATIONS: tuple[Operation, ...] = (
    Operation(
        method="get",
        path="/v1/admin/models",
        summary="Every model, and the memory that they share.",
        answer=ModelStatuses,
        key="admin_key",
    ),
    *(
        Operation(
            method="post",
            path=f"{_NAMED}/{verb}",
            summary=summary,
            answer=ModelStatus,
            errors=(401, 403, 404, 409),
            key="admin_key",
        )
        for verb, summary in (
            ("load", "Load a model; idle ones make room for it."),
            ("unload", "Let a model's answers end, and free its memory."),
        )
    ),
)
"""Of servers with an admin key."""


def openapi_document(interface: Interface = _ANY) -> dict[str, Any]:
    """The whole description of a server's interface, OpenAPI 3.1."""
    operations = OPERATIONS + (ADMIN_OPERATIONS if interface.has_admin_key else ())
    shown = [ErrorBody]
    for operation in operations:
        kinds = (operation.body, operation.answer, operation.chunk, operation.error_body)
        shown += [
            member for kind in kinds if kind is not None and not isinstance(kind, str) for member in _members(kind)
        ]
    _, components = msgspec.json.schema_components(shown, ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        described = paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
        add_texts(f"{operation.method} {operation.path}", described, interface.model)
    bodies = {kind.__name__ for operation in OPERATIONS if operation.body for kind in _members(operation.body)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "powertrain",
            "version": version("powertrain"),
            "description": "A chat-completions server compatible with OpenAI's clients and NVIDIA NIM.",
        },
        # Relative to this document's address, so that it is right behind a proxy that adds a prefix.
        "servers": [{"url": interface.server}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": shown_schemas(components, bodies, interface),
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "One of the server's keys."},
                "plain_key": {
                    "type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same key, by itself.",
                },
                **(_ADMIN_SCHEME if interface.has_admin_key else {}),
            },
        },
        "security": [*([] if interface.needs_key else [{}]), {"key": []}, {"plain_key": []}],
    }  # fmt: skip


def _operation(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {"summary": operation.summary, "operationId": _operation_id(operation)}
    if 401 not in operation.errors:
        found["security"] = []  # answers without a key, too
    elif operation.key != "key":
        found["security"] = [{operation.key: []}]
    if named := re.search(r"\{(\w+)\}", operation.path):
        schema = {"type": "string", "minLength": 1}
        found["parameters"] = [{"name": named[1], "in": "path", "required": True, "schema": schema}]
    if operation.body is not None:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": _schema(operation.body)}}}
    if isinstance(operation.answer, str):
        content: dict[str, Any] = {operation.answer: {"schema": {"type": "string"}}}
    else:
        content = {"application/json": {"schema": _schema(operation.answer)}}
    if operation.chunk is not None:
        # As OpenAI's own description does it: what stands there is the schema of one event's data.
        events = {"description": f"The data of each event; the last is {operation.last_event}."}
        content["text/event-stream"] = {"schema": events | _any_of(_members(operation.chunk))}
    responses: dict[str, Any] = {"200": {"description": "Done.", "content": content}}
    for status in sorted({*operation.errors, *_BEFORE_ROUTES}):
        body = ErrorBody if status in _BEFORE_ROUTES else operation.error_body
        error = {"application/json": {"schema": _schema(body)}}
        responses[str(status)] = {"description": _ERRORS[status], "content": error}
    return {**found, "responses": responses}


def _operation_id(operation: Operation) -> str:
    words = operation.path.replace("{", "").replace("}", "").replace("-", "_").strip("/").split("/")
    return "_".join([operation.method, *words])


def _members(kind: Any) -> tuple[Any, ...]:  # noqa: ANN401 - a type
    """The types of a union, or the type itself."""
    return (kind,) if isinstance(kind, type) else kind.__args__


def _schema(kind: Any) -> dict[str, Any]:  # noqa: ANN401 - a type
    members = _members(kind)
    return _any_of(members) if len(members) > 1 else {"$ref": _REF.format(name=members[0].__name__)}


def _any_of(kinds: tuple[Any, ...]) -> dict[str, Any]:
    return {"anyOf": [{"$ref": _REF.format(name=kind.__name__)} for kind in kinds]}
