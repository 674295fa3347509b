"""API keys: how they are written, and which of them a request carries. Knows no route.

A key of the settings may have a name, ``name=secret``, which the log shows in its place, and opens everything; keys of
the keys file have roles and limits.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

from litestar.types import HTTPScope

from api.clients.client import ClientLimits
from api.edge.api_key import ApiKey
from api.edge.keys_file import NAME, read_keys_file
from api.errors import SettingsError
from api.server_settings import Settings

# A secret of base64 may end in equals signs, so what follows the first must be long enough to be a secret itself.
_NAMED = re.compile(rf"({NAME})=([^=].{{7,}})")


KEY_HEADERS = frozenset({b"authorization", b"x-api-key"})
"""Where a key may stand: as a bearer token, or by itself as Anthropic's clients send it."""


class Denial(StrEnum):
    """Why a request's key does not open the door."""

    MISSING = "no_key"
    SEVERAL = "several_keys"
    WRONG = "wrong_key"
    EXPIRED = "expired_key"


class KeyRing:
    """All keys of a server; empty asks for none. ``clock`` is the time of day, in seconds since 1970."""

    def __init__(self, keys: Iterable[ApiKey] = (), clock: Callable[[], float] = time.time) -> None:
        self.keys = tuple(keys)
        self._clock = clock

    def __bool__(self) -> bool:
        return bool(self.keys)

    @property
    def names(self) -> tuple[str, ...]:
        """The keys' names, in their order."""
        return tuple(key.name for key in self.keys)

    @property
    def limits(self) -> dict[str, ClientLimits]:
        """What each key's client may use, by the key's name."""
        return {key.name: key.limits for key in self.keys}

    def replace(self, other: KeyRing) -> None:
        """Hold another ring's keys from now on, all at once. Requests that have begun go on."""
        self.keys = other.keys

    def holder(self, scope: HTTPScope) -> ApiKey | Denial:
        """The key that a request carries, or why it carries none that opens anything."""
        headers = [(name, value) for name, value in scope["headers"] if name in KEY_HEADERS]
        if len(headers) != 1:  # none, or an attempt to smuggle a second one
            return Denial.SEVERAL if headers else Denial.MISSING
        (name, value), *_ = headers
        scheme, _, token = (b"bearer", b"", value) if name == b"x-api-key" else value.partition(b" ")
        digest = hashlib.sha256(token.strip()).digest()
        # Every key is compared, and in constant time, so that timing tells nothing about any of them.
        matches = [key for key in self.keys if hmac.compare_digest(digest, key.digest)]
        if not matches or scheme.lower() != b"bearer":
            return Denial.WRONG
        expires = matches[0].expires_unix
        return Denial.EXPIRED if expires is not None and expires <= self._clock() else matches[0]


def key_ring(settings: Settings) -> KeyRing:
    """The keys of the settings and of both files. Raises SettingsError for an empty, unreadable or doubled key."""
    texts = [*settings.api_key, *(_from_file(Path(settings.api_key_file)) if settings.api_key_file else ())]
    keys = [_parsed(text, position) for position, text in enumerate(texts, 1)]
    keys += read_keys_file(Path(settings.keys_file)) if settings.keys_file else []
    marks: dict[str, list[object]] = {"name": [key.name for key in keys], "secret": [key.digest for key in keys]}
    for what, values in marks.items():
        if len(set(values)) < len(values):
            names = sorted({keys[at].name for at, value in enumerate(values) if values.count(value) > 1})
            raise SettingsError(f"api_key: two keys have the same {what}: {', '.join(names)}")
    return KeyRing(keys)


def admin_key_ring(settings: Settings, keys: KeyRing) -> KeyRing:
    """The keys that load and unload models. Raises SettingsError for an empty, unreadable or doubled one, and for one
    that is among ``keys``: whoever may ask the model is not to load others."""
    file = settings.admin_key_file
    texts = [*settings.admin_key, *(_from_file(Path(file), "admin_key") if file else ())]
    found = [_parsed(text, position, "admin_key") for position, text in enumerate(texts, 1)]
    digests = [key.digest for key in found]
    if len(set(digests)) < len(digests):
        raise SettingsError("admin_key: two keys have the same secret")
    if shared := [key.name for key in keys.keys if key.digest in digests]:
        raise SettingsError(f"admin_key: the API key {shared[0]} has the same secret; an admin key opens nothing else")
    return KeyRing(replace(key, operates=True) for key in found)


def _parsed(text: str, position: int, setting: str = "api_key") -> ApiKey:
    named, unnamed = _NAMED.fullmatch(text), "key" if setting == "api_key" else "admin"
    name, secret = (named[1], named[2]) if named else (f"{unnamed}-{position}", text)
    if not secret.strip() or not secret.isascii() or not secret.isprintable():
        raise SettingsError(f"{setting}: key {position} is empty or not printable ASCII")
    return ApiKey(name, hashlib.sha256(secret.strip().encode("ascii")).digest())


def _from_file(path: Path, setting: str = "api_key") -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"{setting}_file: {path} is not readable: {reason}") from error
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise SettingsError(f"{setting}_file: {path} holds no key; write one per line, as SECRET or NAME=SECRET")
    return keys
