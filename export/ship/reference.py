"""What a person writes for an artifact: ``oci://HOST[:PORT]/NAME[:TAG][@sha256:DIGEST]``, or a store's URL likewise.

Knows the words alone, no registry.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from runtime.loopback import is_loopback

from export.errors import TransferError

OCI = "oci"
STORES = frozenset({"file", "s3", "gs", "az", "abfs", "memory"})
"""Schemes of folders and object stores."""
DEFAULT_TAG = "latest"

_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")
_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SCHEME = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<rest>.+)", re.DOTALL)
_MAX_LENGTH = 2048
_FORM = "oci://HOST/NAME:TAG, oci://HOST/NAME@sha256:DIGEST, or a store such as s3://BUCKET/FOLDER:TAG or file:///FOLDER:TAG"


@dataclass(frozen=True, slots=True)
class Reference:
    """``place`` is a registry's host or all of a store's URL, ``name`` a repository there (empty in a store).

    ``tag`` is None only where a ``digest`` is given.
    """

    scheme: str
    place: str
    name: str
    tag: str | None
    digest: str | None

    def __str__(self) -> str:
        where = f"{OCI}://{self.place}/{self.name}" if self.scheme == OCI else self.place
        tag = "" if self.tag is None else f":{self.tag}"
        return where + tag + ("" if self.digest is None else f"@{self.digest}")

    @property
    def short_name(self) -> str:
        """The last part of where it lies: what a folder for it may be called."""
        last = (self.name or self.place).rstrip("/").rpartition("/")[2]
        return re.sub(r"[^a-z0-9._-]+", "-", last.lower()).strip("-.") or "model"

    def pinned(self, digest: str) -> Reference:
        """The same artifact by its digest."""
        return Reference(self.scheme, self.place, self.name, None, digest)


def is_reference(word: str) -> bool:
    """Whether a word means an artifact elsewhere, rightly written or not, and no model on this machine or the hub."""
    found = _SCHEME.fullmatch(word)
    return found is not None and found["scheme"] in {OCI, *STORES}


def parse_reference(word: str) -> Reference:
    """Raises TransferError, naming the form, for anything else than a reference."""
    found = _SCHEME.fullmatch(word)
    if found is None or len(word) > _MAX_LENGTH or not word.isprintable():
        raise TransferError(f"{word[:200]!r} names no artifact; write {_FORM}")
    if "@" in found["rest"].partition("/")[0]:
        raise TransferError("a reference holds no user and no password; 'docker login' keeps them for a registry")
    rest, digest = _split_digest(word, found["rest"])
    head, colon, tag = rest.rpartition(":")
    has_tag = bool(colon) and "/" not in tag
    rest, named = (head, tag) if has_tag else (rest, None)
    if named is not None and not _TAG.fullmatch(named):
        raise TransferError(f"{named!r} is no tag: letters, digits, '_', '.' and '-', at most 128; write {_FORM}")
    tag_or_default = DEFAULT_TAG if named is None and digest is None else named
    if found["scheme"] != OCI:
        return Reference(found["scheme"], f"{found['scheme']}://{rest.rstrip('/')}", "", tag_or_default, digest)
    host, slash, name = rest.partition("/")
    if not _HOST.fullmatch(host) or not slash or not _NAME.fullmatch(name):
        raise TransferError(f"{word[:200]!r} names no artifact: a name is lower case, after a host; write {_FORM}")
    return Reference(OCI, host, name, tag_or_default, digest)


def _split_digest(word: str, rest: str) -> tuple[str, str | None]:
    start, at, digest = rest.rpartition("@")
    if not at:
        return rest, None
    if not _DIGEST.fullmatch(digest):
        raise TransferError(f"{word[:200]!r}: after '@' stands sha256: and 64 hex digits; write {_FORM}")
    return start, digest


def is_local_place(place: str) -> bool:
    """Whether only programs on this machine answer at ``HOST[:PORT]``."""
    host = place.rpartition(":")[0] if re.search(r":[0-9]+$", place) else place
    return is_loopback(host.strip("[]"))
