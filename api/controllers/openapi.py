"""The OpenAPI description, made from the very structs that validate requests and encode answers.

Litestar's generator would see raw bodies only, because handlers parse them themselves (``api.request.json_body``).
Knows every route's contract; runs none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import msgspec

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
    404: "The model or path does not exist.",
    413: "The body is larger than the limit.",
    429: "The queue is full.",
    500: "The engine failed.",
    503: "The server is loading, shutting down or has failed.",
}


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
    errors: tuple[int, ...] = (401,)


_ANY = Interface()
_POST_ERRORS = (400, 401, 404, 413)
_GENERATION_ERRORS = (*_POST_ERRORS, 429, 500, 503)
_METRICS_TEXT = "text/plain"

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        method="post",
        path="/v1/chat/completions",
        summary="Answer a conversation, as one body or as server-sent events.",
        body=ChatRequest,
        answer=ChatCompletion,
        chunk=ChatChunk,
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
        chunk=Completion,
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
        method="get", path="/v1/models/{model_id}", summary="One served name.", answer=ModelCard, errors=(401, 404)
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


def openapi_document(interface: Interface = _ANY) -> dict[str, Any]:
    """The whole description of a server's interface, OpenAPI 3.1."""
    shown = [ErrorBody]
    for operation in OPERATIONS:
        kinds = (operation.body, operation.answer, operation.chunk, operation.error_body)
        shown += [
            member for kind in kinds if kind is not None and not isinstance(kind, str) for member in _members(kind)
        ]
    _, components = msgspec.json.schema_components(shown, ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
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
        "servers": [{"url": "./"}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": shown_schemas(components, bodies, interface),
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "One of the server's keys."},
                "plain_key": {
                    "type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same key, by itself.",
                },
            },
        },
        "security": [*([] if interface.needs_key else [{}]), {"key": []}, {"plain_key": []}],
    }  # fmt: skip


def _operation(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {"summary": operation.summary, "operationId": _operation_id(operation)}
    if 401 not in operation.errors:
        found["security"] = []  # answers without a key, too
    if "{model_id}" in operation.path:
        schema = {"type": "string", "minLength": 1}
        found["parameters"] = [{"name": "model_id", "in": "path", "required": True, "schema": schema}]
    if operation.body is not None:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": _schema(operation.body)}}}
    if isinstance(operation.answer, str):
        content: dict[str, Any] = {operation.answer: {"schema": {"type": "string"}}}
    else:
        content = {"application/json": {"schema": _schema(operation.answer)}}
    if operation.chunk is not None:
        names = " or ".join(kind.__name__ for kind in _members(operation.chunk))
        description = f"Events whose data is a {names}; the last is {operation.last_event}."
        content["text/event-stream"] = {"schema": {"type": "string", "description": description}}
    responses: dict[str, Any] = {"200": {"description": "Done.", "content": content}}
    for status in operation.errors:
        error = {"application/json": {"schema": _schema(operation.error_body)}}
        responses[str(status)] = {"description": _ERRORS[status], "content": error}
    return {**found, "responses": responses}


def _operation_id(operation: Operation) -> str:
    words = operation.path.replace("{", "").replace("}", "").replace("-", "_").strip("/").split("/")
    return "_".join([operation.method, *words])


def _members(kind: Any) -> tuple[Any, ...]:  # noqa: ANN401 - a type
    """The types of a union, or the type itself."""
    return (kind,) if isinstance(kind, type) else kind.__args__


def _schema(kind: Any) -> dict[str, Any]:  # noqa: ANN401 - a type
    schemas = [{"$ref": _REF.format(name=member.__name__)} for member in _members(kind)]
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
