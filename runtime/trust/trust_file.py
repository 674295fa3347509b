"""The trust file: whose signatures count, until when, for packages and adapters of which names. TOML, read strictly.

[[key]]
name = "release"
id = "5f3c..."                       # sha256 of the public key, as signatures name it
public_key = "base64 of 32 bytes"
expires = 2027-12-31                 # optional: from this day on (UTC) the key signs nothing
packages = ["smollm2-*"]             # optional: names of packages and adapters that it may sign, with * and ?
"""

from __future__ import annotations

import datetime
import fnmatch
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from runtime.errors import TrustError
from runtime.package.limits import Name, Sha256
from runtime.package.package_file import read_at_most
from runtime.trust.keys import check_installed, key_id, public_from_text, public_text

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_TRUST_FILE_MAX_BYTES = 2**20


class _KeyTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: Name
    id: Sha256
    public_key: Annotated[str, Meta(max_length=64)]
    expires: datetime.date | None = None
    packages: tuple[Name, ...] = ("*",)


class _TrustTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    key: Annotated[tuple[_KeyTable, ...], Meta(min_length=1, max_length=1000)]


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A key whose signatures count. ``packages`` are patterns of names; ``expires`` is the first day without it."""

    name: str
    key_id: str
    public: Ed25519PublicKey
    expires: datetime.date | None
    packages: tuple[str, ...]

    def refusal(self, package: str, today: datetime.date) -> str | None:
        """Why this key's signature does not count for a package of that name; None if it does."""
        if self.expires is not None and today >= self.expires:
            return f"the key {self.name!r} expired on {self.expires}"
        if not any(fnmatch.fnmatchcase(package, pattern) for pattern in self.packages):
            return f"the key {self.name!r} may sign {', '.join(self.packages)}, not {package!r}"
        return None


def read_trust_file(path: Path) -> dict[str, TrustedKey]:
    """Trusted keys by their ids. Raises TrustError naming what is wrong."""
    check_installed()
    try:
        if path.stat().st_mode & 0o002:
            raise TrustError(f"the trust file {path} may be written by everybody; run: chmod o-w {path}")
        data = read_at_most(path, _TRUST_FILE_MAX_BYTES)
        if data is None:
            raise TrustError(f"the trust file {path} is larger than {_TRUST_FILE_MAX_BYTES} bytes")
        table = msgspec.toml.decode(data, type=_TrustTable)
    except OSError as error:
        raise TrustError(f"the trust file {path} cannot be read ({error.strerror})") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise TrustError(f"the trust file {path} is not readable: {error}; see docs/artifacts.md") from error
    keys: dict[str, TrustedKey] = {}
    for entry in table.key:
        key = _trusted(path, entry)
        if key.key_id in keys:
            raise TrustError(f"the trust file {path} holds the key {key.key_id[:12]} twice")
        keys[key.key_id] = key
    return keys


def trust_entry(name: str, public: Ed25519PublicKey) -> str:
    """The lines that make a trust file trust a key."""
    quoted = msgspec.json.encode(name).decode()
    return f'[[key]]\nname = {quoted}\nid = "{key_id(public)}"\npublic_key = "{public_text(public)}"\n'


def _trusted(path: Path, entry: _KeyTable) -> TrustedKey:
    try:
        public = public_from_text(entry.public_key)
    except ValueError as error:
        raise TrustError(f"the trust file {path}: the public key of {entry.name!r} is not one: {error}") from error
    if (found := key_id(public)) != entry.id:
        raise TrustError(f"the trust file {path}: the public key of {entry.name!r} has the id {found}, not {entry.id}")
    return TrustedKey(entry.name, entry.id, public, entry.expires, entry.packages)
