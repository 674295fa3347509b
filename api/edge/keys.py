"""API keys: how they are written, and which of them a request carries. Knows no route.

A key may have a name, ``name=secret``, which the log shows in its place.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from litestar.types import HTTPScope

from api.errors import SettingsError
from api.server_settings import Settings

# A secret of base64 may end in equals signs, so what follows the first must be long enough to be a secret itself.
_NAMED = re.compile(r"([A-Za-z][A-Za-z0-9_.-]{0,31})=([^=].{7,})")


KEY_HEADERS = frozenset({b"authorization", b"x-api-key"})
"""Where a key may stand: as a bearer token, or by itself as Anthropic's clients send it."""


class Denial(StrEnum):
    """Why a request's key does not open the door."""

    MISSING = "no_key"
    SEVERAL = "several_keys"
    WRONG = "wrong_key"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key. ``digest`` is the SHA-256 of the secret: of one length, so comparing it tells nothing of the secret's."""

    name: str
    digest: bytes = field(repr=False)


class KeyRing:
    """All keys of a server; empty asks for none."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self._keys = tuple(keys)

    def __bool__(self) -> bool:
        return bool(self._keys)

    @property
    def names(self) -> tuple[str, ...]:
        """The keys' names, in their order."""
        return tuple(key.name for key in self._keys)

    def holder(self, scope: HTTPScope) -> str | Denial:
        """The name of the key that a request carries, or why it carries none."""
        headers = [(name, value) for name, value in scope["headers"] if name in KEY_HEADERS]
        if len(headers) != 1:  # none, or an attempt to smuggle a second one
            return Denial.SEVERAL if headers else Denial.MISSING
        (name, value), *_ = headers
        scheme, _, token = (b"bearer", b"", value) if name == b"x-api-key" else value.partition(b" ")
        digest = hashlib.sha256(token.strip()).digest()
        # Every key is compared, and in constant time, so that timing tells nothing about any of them.
        matches = [key.name for key in self._keys if hmac.compare_digest(digest, key.digest)]
        return matches[0] if matches and scheme.lower() == b"bearer" else Denial.WRONG


def key_ring(settings: Settings) -> KeyRing:
    """The keys of the settings and of the key file. Raises SettingsError for an empty, unreadable or doubled key."""
    texts = [*settings.api_key, *(_from_file(Path(settings.api_key_file)) if settings.api_key_file else ())]
    keys = [_parsed(text, position) for position, text in enumerate(texts, 1)]
    for what, values in (("name", [key.name for key in keys]), ("secret", [key.digest for key in keys])):
        if len(set(values)) < len(values):
            raise SettingsError(f"api_key: two keys have the same {what}")
    return KeyRing(keys)


def _parsed(text: str, position: int) -> ApiKey:
    named = _NAMED.fullmatch(text)
    name, secret = (named[1], named[2]) if named else (f"key-{position}", text)
    if not secret.strip() or not secret.isascii() or not secret.isprintable():
        raise SettingsError(f"api_key: key {position} is empty or not printable ASCII")
    return ApiKey(name, hashlib.sha256(secret.strip().encode("ascii")).digest())


def _from_file(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"api_key_file: {path} is not readable: {error}") from error
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise SettingsError(f"api_key_file: {path} holds no key; write one per line, as SECRET or NAME=SECRET")
    return keys
