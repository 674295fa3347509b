"""Every failure as the one error body that clients parse.

``{"error": {"object": "error", "message": ..., "type": ..., "param": ..., "code": ...}}``: nested as OpenAI and vLLM
do, with ``object`` inside as NIM's clients expect in streams. Owns the mapping from exceptions to status, type and
headers; knows no route. A client's mistake is never a 5xx, because the SDKs retry those.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
from litestar.exceptions import HTTPException
from runtime.errors import EngineUnavailable, Overloaded, RequestError, TemplateError

from api.errors import (
    BodyTooLargeError,
    ClientLimitError,
    ConflictError,
    ForbiddenError,
    GenerationFailedError,
    ModelFailedError,
    NotFoundError,
)

MAX_MESSAGE_CHARS = 4096

_TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    408: "RequestTimeoutError",
    409: "ConflictError",
    413: "RequestEntityTooLargeError",
    414: "RequestTargetTooLongError",
    429: "RateLimitError",
    431: "RequestHeadersTooLargeError",
    500: "InternalServerError",
    503: "ServiceUnavailableError",
}
_UNAVAILABLE_RETRY_S = 2


class ErrorInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong. ``param`` is the dotted name of the first bad field; ``code`` repeats the HTTP status."""

    object: str = "error"
    message: str
    type: str
    param: str | None
    code: int


class ErrorBody(msgspec.Struct, frozen=True):
    """The body of every response that is not a success, and of an error event in a stream."""

    error: ErrorInfo


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """A failure ready to be sent: status, body and extra headers."""

    status: int
    message: str
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        """The JSON body, of bounded length."""
        return msgspec.json.encode(self.as_struct())

    def as_struct(self) -> ErrorBody:
        """The body before encoding."""
        message = self.message
        if len(message) > MAX_MESSAGE_CHARS:
            message = message[:MAX_MESSAGE_CHARS] + "..."
        kind = _TYPES.get(self.status, _TYPES[400 if self.status < 500 else 500])
        return ErrorBody(ErrorInfo(message=message, type=kind, param=self.param, code=self.status))


FAULT = ErrorAnswer(500, "Internal server error", headers={"x-should-retry": "false"})
"""The answer to a fault of ours: a retry meets it again, so the SDKs are told not to try."""


_AS_IT_IS: Mapping[type[Exception], tuple[int, Mapping[str, str]]] = {
    ForbiddenError: (403, {}),
    ConflictError: (409, {}),
    ModelFailedError: (503, {"x-should-retry": "false"}),  # a retry meets it again
}
"""Failures whose text is for the client, with the status and headers of each."""


def answer_from(error: Exception) -> ErrorAnswer:
    """The answer to an exception. What nobody expected is a 500 that tells the client nothing of the inside."""
    if isinstance(error, RequestError):
        return ErrorAnswer(400, str(error), error.field)
    if isinstance(error, TemplateError):
        return ErrorAnswer(400, str(error), "messages")
    if isinstance(error, NotFoundError):
        return ErrorAnswer(404, str(error), error.param)
    if isinstance(error, BodyTooLargeError):
        # The rest of the body is not read, so the connection cannot be used again.
        return ErrorAnswer(413, str(error), headers={"connection": "close"})
    if isinstance(error, (Overloaded, ClientLimitError)):
        return ErrorAnswer(429, str(error), headers={"retry-after": str(max(1, error.retry_after_s))})
    if isinstance(error, EngineUnavailable):
        return ErrorAnswer(503, str(error), headers={"retry-after": str(_UNAVAILABLE_RETRY_S)})
    if type(error) in _AS_IT_IS:
        status, headers = _AS_IT_IS[type(error)]
        return ErrorAnswer(status, str(error), headers=dict(headers))
    if isinstance(error, HTTPException):
        return _from_http_exception(error)
    if isinstance(error, GenerationFailedError):  # may be different next time
        return ErrorAnswer(500, "Internal server error")
    return FAULT


def _from_http_exception(error: HTTPException) -> ErrorAnswer:
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    match error.status_code:
        case 404:
            return ErrorAnswer(404, "The requested path does not exist.", headers=headers)
        case 405:
            return ErrorAnswer(405, f"This path allows {headers.get('allow', 'other methods')}.", headers=headers)
        case status if status < 500:
            # Litestar's own 4xx beside these are faults of the request line or its headers.
            return ErrorAnswer(400, str(error.detail) or "Bad request", headers=headers)
        case _:
            return FAULT
