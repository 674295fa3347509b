"""The keys file: TOML whose ``[[key]]`` tables each give a key's name and hash, its role, limits and end.

Hashes are plain SHA-256. A slow, salted hash protects secrets that can be guessed; these are 256 random bits
(``powertrain key new``), which no table holds and no search finds, and a slow hash would be paid on every request.
Nobody who reads the file can call the server with what it holds; who can write it can add a key, so a file that
everybody may write is refused. Knows no request.
"""

from __future__ import annotations

import re
import stat
import tomllib
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from runtime.did_you_mean import did_you_mean

from api.clients.client import ClientLimits
from api.edge.api_key import ApiKey, Role
from api.errors import SettingsError

NAME = r"[A-Za-z][A-Za-z0-9_.-]{0,31}"
"""How a key may be named: the log and the metrics show it."""
MOST = 10**12
"""The largest limit that may be written."""

_MAX_BYTES = 1024 * 1024
_Limit = Annotated[int, Meta(ge=1, le=MOST)] | None


class _Entry(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    name: str
    sha256: str
    role: Role = Role.CLIENT
    requests_per_minute: _Limit = None
    tokens_per_minute: _Limit = None
    max_concurrency: _Limit = None
    expires: Annotated[datetime, Meta(tz=True)] | None = None


def read_keys_file(path: Path) -> list[ApiKey]:
    """The keys of a file, in its order. Raises SettingsError naming the entry and the field at fault."""
    try:
        if path.stat().st_mode & stat.S_IWOTH:
            raise SettingsError(f"keys_file: everybody may write {path}, and so add keys; chmod o-w {path}")
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise SettingsError(f"keys_file: {path} is larger than {_MAX_BYTES} bytes")
        document = tomllib.loads(content.decode("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"keys_file: {path} is not readable: {reason}") from error
    tables = document.pop("key", [])
    if document:
        raise SettingsError(f"keys_file: {path} holds {next(iter(document))!r}; it may hold [[key]] tables alone")
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise SettingsError(f"keys_file: {path}: a key is a table that begins with [[key]], in two brackets")
    if not tables:
        raise SettingsError(f"keys_file: {path} holds no key; 'powertrain key new NAME' makes one")
    return [_key(table, f"keys_file: {path}: key {position}") for position, table in enumerate(tables, 1)]


def _key(table: dict[str, Any], where: str) -> ApiKey:
    name = table.get("name")
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise SettingsError(f"{where}: name: a letter, then up to 31 letters, digits, _ . or -; got {name!r}")
    where += f" ({name})"
    if unknown := sorted(set(table) - set(_Entry.__struct_fields__)):
        near = did_you_mean(unknown[0], _Entry.__struct_fields__)
        raise SettingsError(f"{where}: {unknown[0]}: there is no such field.{near}")
    try:
        entry = msgspec.convert(table, _Entry)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$.")
        field = place.rstrip("`") or "sha256"  # what is missing has no place; the name is there
        raise SettingsError(f"{where}: {field}: {problem}") from error
    if not re.fullmatch("[0-9a-f]{64}", entry.sha256):
        raise SettingsError(f"{where}: sha256: 64 hexadecimal digits in lower case are a hash; the key itself is not")
    limits = ClientLimits(
        requests_per_minute=entry.requests_per_minute,
        tokens_per_minute=entry.tokens_per_minute,
        max_concurrency=entry.max_concurrency,
    )
    expires = None if entry.expires is None else entry.expires.timestamp()
    return ApiKey(name, bytes.fromhex(entry.sha256), entry.role, limits, expires)
