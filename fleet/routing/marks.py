"""From a request's body to its marks: one per place at which a conversation can be told from others, earliest first.

A mark stands for everything that came before it, so two requests that share their n-th mark share all that lies before.
Messages are compared as they were written: a client that sends its history again sends the same bytes. Knows which
fields hold a conversation, and nothing else about a request; what is no JSON object has no marks and no model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

MOST_MARKS = 256
"""Marks of one request, the last ones: what is older leads to the same replica anyway."""
BLOCK_BYTES = 1024
"""A prompt without messages is marked after every so many bytes."""
_MOST_PARTS = 4096
"""Messages that the API takes at most; a body with more has no marks, for which the front's others would wait."""
_MARK_BYTES = 16
_NOTHING = msgspec.Raw(b"null")


class _Body(msgspec.Struct):
    model: msgspec.Raw = _NOTHING
    cache_salt: msgspec.Raw = _NOTHING
    system: msgspec.Raw = _NOTHING
    instructions: msgspec.Raw = _NOTHING
    tools: msgspec.Raw = _NOTHING
    messages: msgspec.Raw = _NOTHING
    input: msgspec.Raw = _NOTHING
    prompt: msgspec.Raw = _NOTHING


class _Message(msgspec.Struct):
    role: msgspec.Raw = _NOTHING


_BODY = msgspec.json.Decoder(_Body)
_LIST = msgspec.json.Decoder(Annotated[list[msgspec.Raw], Meta(max_length=_MOST_PARTS)])
_MESSAGE = msgspec.json.Decoder(_Message)
_OPENING_ROLES = frozenset({b'"system"', b'"developer"'})


@dataclass(frozen=True, slots=True)
class Asked:
    """What routing needs of a request. ``model`` is None where the request names none. ``marks`` are 16 bytes each."""

    model: str | None = None
    marks: tuple[bytes, ...] = ()


def asked_of(body: bytes, domain: str, session: str | None = None) -> Asked:
    """Model and marks of a body. ``domain`` separates clients that share no cache; a ``session`` is the only mark.

    A body that is not understood has neither: whoever answers it says what is wrong with it.
    """
    try:
        read = _BODY.decode(body)
        name = msgspec.json.decode(read.model)
        marks = _session_marks(domain, session) if session else tuple(_marks(read, domain))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Asked()
    return Asked(name if isinstance(name, str) else None, marks[-MOST_MARKS:])


def _session_marks(domain: str, session: str) -> tuple[bytes, ...]:
    return (_digest(domain.encode(), b"session", session.encode()),)


def _marks(body: _Body, domain: str) -> Iterator[bytes]:
    """One mark after each part, from the first that is a conversation's own: an opening that many conversations share
    belongs to every replica, and would draw all of them to the first that had it."""
    head = (body.model, body.cache_salt, body.system, body.instructions, body.tools)
    mark = _digest(domain.encode(), *(bytes(part) for part in head))
    is_opening = True
    for part in _parts(body):
        mark = _digest(mark, part)
        is_opening = is_opening and _is_opening(part)
        if not is_opening:
            yield mark


def _parts(body: _Body) -> Iterator[bytes]:
    for field in (bytes(body.messages), bytes(body.input)):
        if field[:1] == b"[":
            yield from (bytes(item) for item in _LIST.decode(field))
            return
    prompt = bytes(body.prompt)
    text = bytes(body.input) if prompt == b"null" else prompt
    if text == b"null":
        return
    whole = len(text) - len(text) % BLOCK_BYTES or len(text)
    yield from (text[start : start + BLOCK_BYTES] for start in range(0, whole, BLOCK_BYTES))


def _is_opening(part: bytes) -> bool:
    return part[:1] == b"{" and bytes(_MESSAGE.decode(part).role) in _OPENING_ROLES


def _digest(*parts: bytes) -> bytes:
    """16 bytes over the parts; their lengths count, so no two lists of parts are alike."""
    state = hashlib.blake2b(digest_size=_MARK_BYTES)
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.digest()
