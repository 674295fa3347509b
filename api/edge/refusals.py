"""What of a request is refused before there is one: its head, its place; and the bytes of such an answer.

Pure functions of what was received and of the limits. Knows no connection and no clock.
"""

from __future__ import annotations

from http import HTTPStatus

from api.edge.limits import PROBE_PATHS, ConnectionLimits
from api.edge.paths import PathRule
from api.error_answer import ErrorAnswer

_RETRY_S = "1"

Headers = list[tuple[bytes, bytes]]


class RefusedRequest(Exception):
    """Ends the parsing of a request; raised inside the parser's callbacks, which hand it back as the cause."""

    def __init__(self, answer: ErrorAnswer, reason: str) -> None:
        super().__init__(reason)
        self.answer = answer
        self.reason = reason


def check_head(target: bytes, headers: Headers, version: str, limits: ConnectionLimits, *, num_bytes: int) -> None:
    """Raise RefusedRequest for what two readers could understand in two ways, and what this server does not speak.

    ``num_bytes`` are those received since the last thing that was understood.
    """
    if len(target) > limits.max_target_bytes or len(headers) > limits.max_headers:
        raise too_large_head(target, headers, limits)
    # Counted only when the blocks received could hold so much.
    if num_bytes > limits.max_header_bytes < _size(target, headers):
        raise too_large_head(target, headers, limits)
    if not target.startswith(b"/"):
        raise RefusedRequest(ErrorAnswer(400, "The request's target must be a path, such as /v1/models"), "target")
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    if (version != "1.1" and (codings or version != "1.0")) or (codings and codings != [b"chunked"]):
        raise malformed()


def too_large_head(target: bytes, headers: Headers, limits: ConnectionLimits) -> RefusedRequest:
    """What is too large about a head that is, whole or not."""
    if len(target) > limits.max_target_bytes:
        message = f"The request's target is longer than the limit of {limits.max_target_bytes} bytes"
        return RefusedRequest(ErrorAnswer(414, message), "target_too_long")
    if len(headers) > limits.max_headers:
        message = f"The request has more than the limit of {limits.max_headers} headers"
        return RefusedRequest(ErrorAnswer(431, message), "too_many_headers")
    message = f"The request's line and headers are larger than the limit of {limits.max_header_bytes} bytes"
    return RefusedRequest(ErrorAnswer(431, message), "head_too_large")


def malformed() -> RefusedRequest:
    """What no parser should guess the meaning of."""
    return RefusedRequest(ErrorAnswer(400, "The request is not valid HTTP/1.1"), "malformed")


def is_probe(target: bytes, paths: PathRule) -> bool:
    """Whether a request's target is health or metrics."""
    path = paths.meant(target.partition(b"?")[0].decode("latin-1"))
    return path in PROBE_PATHS or path.removesuffix("/") in PROBE_PATHS


def not_a_probe(*, is_management: bool) -> RefusedRequest:
    """Any other request where nothing but those is served: on a port of its own, or when all connections are taken."""
    if is_management:
        return RefusedRequest(ErrorAnswer(404, "This port serves health and metrics only."), "not_here")
    message = "All connections are taken; only health and metrics are served on this one."
    return RefusedRequest(ErrorAnswer(503, message, headers={"retry-after": _RETRY_S}), "all_taken")


def raw_answer(answer: ErrorAnswer, request_id: str) -> bytes:
    """A whole HTTP response, where there is no request to answer in the ordinary way. Says that it closes."""
    body = answer.body()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        "x-request-id": request_id,
        **answer.headers,
    }
    lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body


def _size(target: bytes, headers: Headers) -> int:
    return len(target) + sum(len(name) + len(value) + 4 for name, value in headers)  # colon, space, line end
