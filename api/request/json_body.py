"""From the bytes of a request to a JSON object: content type, size, encoding, syntax, number of values, nesting.

Knows no field. Whoever calls ``parse_object`` keeps large bodies off the event loop (``api.request.turns``).

Litestar's own body parsing is not used, because the messages, the limits and the order of checks are part of the
contract (docs/contract.md).
"""

from __future__ import annotations

from typing import Any

import msgspec
from litestar.types import Receive
from runtime.errors import RequestError

from api.errors import BodyTooLargeError, ClientGoneError
from api.request.body_limits import MAX_KEYS, MAX_NESTING, BodyLimits
from api.request.byte_budget import Hold
from api.request.json_scan import check_structure

_UTF8_BOM = b"\xef\xbb\xbf"


def check_content_type(content_type: str | None, content_encoding: str | None) -> None:
    """Raise RequestError unless the body says that it is plain JSON.

    A missing type is refused too: a browser lets any page send such a body, and a plain text's, without asking first.
    """
    media_type = (content_type or "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise RequestError("Unsupported Media Type: Only 'application/json' is allowed")
    if content_encoding is not None and content_encoding.strip().lower() not in {"", "identity"}:
        raise RequestError("Unsupported Content-Encoding: send the body uncompressed")


async def read_body(receive: Receive, content_length: str | None, limit_bytes: int, hold: Hold) -> bytes:
    """The whole body, whose bytes are held as they arrive: an announced size alone takes nothing from others.

    Raises BodyTooLargeError above the limit, Overloaded beyond the budget, ClientGoneError when the client leaves.
    """
    if content_length is not None and content_length.isdecimal() and int(content_length) > limit_bytes:
        raise _too_large(limit_bytes)
    blocks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        if message["type"] != "http.request":
            continue
        block = message["body"]
        size += len(block)
        if size > limit_bytes:
            raise _too_large(limit_bytes)
        hold.resize(size)
        blocks.append(block)
        if not message.get("more_body", False):
            return b"".join(blocks)


def parse_object(body: bytes, limits: BodyLimits) -> dict[str, Any]:
    """The JSON object in a body; of a repeated key the last value counts. Raises RequestError without a field."""
    check_structure(body, limits)
    try:
        value = msgspec.json.decode(body.removeprefix(_UTF8_BOM))
    except msgspec.ValidationError as error:  # syntactically right, but no double or int64 holds it
        raise RequestError(f"Invalid JSON: {str(error).partition(' - at ')[0]}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"Invalid JSON: {error}") from error
    except RecursionError:
        raise _too_deep() from None
    if not isinstance(value, dict):
        raise RequestError(f"The body must be a JSON object, got {_kind(value)}")
    if len(value) > MAX_KEYS:
        raise RequestError(f"the body: at most {MAX_KEYS} fields are allowed, got {len(value)}")
    if nests_deeper(value, MAX_NESTING):
        raise _too_deep()
    return value


def nests_deeper(value: object, limit: int) -> bool:
    """True when a JSON value has more levels. Looks level by level, which needs no recursion and stops at the limit."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(limit):
        children = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
        level = [child for child in children if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def _too_deep() -> RequestError:
    return RequestError(f"Invalid JSON: nested deeper than {MAX_NESTING} levels")


def _too_large(limit_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"The request body is larger than the limit of {limit_bytes} bytes")


def _kind(value: object) -> str:
    names = {str: "a string", list: "a list", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), "something else")
