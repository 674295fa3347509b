"""How an answer ends whose replica is gone, after its status line was sent: the error event of the path's own kind.

Knows the forms of streams by path; the events themselves are the api room's.
"""

from __future__ import annotations

from api.error_answer import ErrorAnswer
from api.response.message_types import message_error
from api.response.renderer import error_events
from api.response.sse import encode_json, named_event


def broken_stream(path: str, error: ErrorAnswer) -> bytes:
    """The last bytes of a stream of server-sent events at ``path``."""
    if path.startswith("/v1/messages"):
        return named_event("error", message_error(error))
    if path.startswith("/v1/responses"):
        told = error.as_struct().error
        failure = {"type": "error", "code": "server_error", "message": told.message, "param": None}
        return named_event("error", failure)
    return b"".join(error_events(error))


def error_body(path: str, error: ErrorAnswer) -> bytes:
    """A failure before the status line, as the clients of ``path`` read it."""
    return encode_json(message_error(error)) if path.startswith("/v1/messages") else error.body()
