"""A refused request -> what its log line says of it: the parameter and the reason, never a value that came along.

Messages to clients quote what they sent, which may be a prompt. The log's reason ends where the first quotation
begins.
"""

from __future__ import annotations

from runtime.errors import TemplateError

from api.error_answer import ErrorAnswer
from api.errors import NotFoundError

_MAX_CHARS = 200


def refusal_fields(error: Exception, answer: ErrorAnswer) -> dict[str, object]:
    """``param`` and ``reason`` for a request line. A template's own words may be a prompt's, so they stay out."""
    if isinstance(error, TemplateError):
        reason = "the chat template refused the messages or failed"
    elif isinstance(error, NotFoundError):
        reason = answer.message
    else:
        reason = min((answer.message.partition(mark)[0] for mark in ("'", '"')), key=len).rstrip(" ,")
    return {"param": answer.param, "reason": reason[:_MAX_CHARS]}
