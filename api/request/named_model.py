"""The model that a body names, before anything else of it is read. Builds nothing of the rest; knows no other field."""

from __future__ import annotations

import msgspec
from msgspec import Raw

_UTF8_BOM = b"\xef\xbb\xbf"


class _Named(msgspec.Struct):
    model: Raw = Raw(b"null")


def named_model(body: bytes) -> object:
    """The value of ``model``, of the last where there are several. None where there is none, or the body is not right:
    what is wrong is said by whoever reads all of it."""
    try:
        return msgspec.json.decode(msgspec.json.decode(body.removeprefix(_UTF8_BOM), type=_Named).model)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
