"""A file of signatures: a DSSE envelope a line, each over an in-toto statement.

``securesystemslib`` owns the envelope. Reading gives statements with the ids of keys whose signatures hold; what a
statement must say is ``signers``' to judge.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from runtime.errors import TrustError
from runtime.package.limits import Name, Sha256, decode_document
from runtime.package.package_file import read_at_most
from runtime.trust.keys import SigningKey, check_installed
from runtime.trust.trust_file import TrustedKey

if TYPE_CHECKING:
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import Key

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"

_MAX_FILE_BYTES = 2 * 2**20
_MAX_ENVELOPES = 32
_MAX_SIGNATURES = 8


class _Digest(msgspec.Struct, frozen=True):
    sha256: Sha256


class _Subject(msgspec.Struct, frozen=True):
    name: Name
    digest: _Digest


class Statement(msgspec.Struct, frozen=True, rename={"type": "_type", "predicate_type": "predicateType"}):
    """As much of an in-toto statement as verification reads."""

    type: str
    predicate_type: str
    subject: Annotated[tuple[_Subject, ...], Meta(min_length=1, max_length=1000)]
    predicate: dict[str, Any] = {}

    @property
    def digests(self) -> dict[str, str]:
        """Name -> sha256 of what the statement is about."""
        return {subject.name: subject.digest.sha256 for subject in self.subject}


class _Signature(msgspec.Struct, frozen=True):
    keyid: Sha256
    sig: Annotated[str, Meta(max_length=256)]


class _Line(msgspec.Struct, frozen=True, rename={"payload_type": "payloadType"}):
    payload: Annotated[str, Meta(max_length=_MAX_FILE_BYTES)]
    payload_type: str
    signatures: Annotated[tuple[_Signature, ...], Meta(min_length=1, max_length=_MAX_SIGNATURES)]


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A statement, the ids that its envelope names, and those of trusted keys whose signatures hold."""

    statement: Statement
    named: tuple[str, ...]
    held: tuple[str, ...]


def sign_statement(payload: bytes, key: SigningKey) -> bytes:
    """The line for the file: an envelope over ``payload``, an in-toto statement as JSON."""
    check_installed()
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner, SSlibKey

    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(CryptoSigner(key.private, SSlibKey.from_crypto(key.public, key.key_id)))
    return msgspec.json.encode(envelope.to_dict()) + b"\n"


def add_signature(path: Path, line: bytes, key: SigningKey) -> None:
    """Put a line into a file of signatures, in place of what that key signed before. Raises TrustError."""
    lines = [old for old in _lines(path) if key.key_id not in {one.keyid for one in _parsed(old, path).signatures}]
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(b"".join([*(old + b"\n" for old in lines), line]))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise TrustError(f"{path.parent.name}: the signature cannot be written ({error.strerror})") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_signatures(path: Path, trusted: Mapping[str, TrustedKey]) -> list[SignedStatement]:
    """Every signed statement in a file, none if it is missing. Raises TrustError for a file that is no such."""
    return [_checked(line, path, trusted) for line in _lines(path)]


def _lines(path: Path) -> list[bytes]:
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise TrustError(f"{path.parent.name}: {path.name} is a link or no file")
    try:
        data = read_at_most(path, _MAX_FILE_BYTES)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise TrustError(f"{path.parent.name}: {path.name} cannot be read ({error.strerror})") from error
    if data is None:
        raise TrustError(f"{path.parent.name}: {path.name} is larger than {_MAX_FILE_BYTES} bytes")
    lines = [line for line in data.split(b"\n") if line.strip()]
    if len(lines) > _MAX_ENVELOPES:
        raise TrustError(f"{path.parent.name}: {path.name} holds more than {_MAX_ENVELOPES} signatures")
    return lines


def _parsed(line: bytes, path: Path) -> _Line:
    try:
        return decode_document(line, _Line)
    except ValueError as error:
        raise TrustError(f"{path.parent.name}: {path.name} is not readable: {error}") from error


def _checked(line: bytes, path: Path, trusted: Mapping[str, TrustedKey]) -> SignedStatement:
    parsed, values = _parsed(line, path), decode_document(line, dict[str, Any])
    if parsed.payload_type != PAYLOAD_TYPE:
        raise TrustError(f"{path.parent.name}: {path.name} signs {parsed.payload_type!r}, not {PAYLOAD_TYPE!r}")
    envelope = _envelope(values, path)
    named = tuple(signature.keyid for signature in parsed.signatures)
    held = tuple(name for name in named if name in trusted and _holds(envelope, trusted[name]))
    try:
        statement = decode_document(envelope.payload, Statement)
    except ValueError as error:
        raise TrustError(f"{path.parent.name}: {path.name} signs what is no statement: {error}") from error
    return SignedStatement(statement, named, held)


def _envelope(values: dict[str, Any], path: Path) -> Envelope:
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import FormatError

    try:
        return Envelope.from_dict(values)
    except (KeyError, ValueError, TypeError, FormatError) as error:
        raise TrustError(f"{path.parent.name}: {path.name} holds no envelope of signatures") from error


def _holds(envelope: Envelope, key: TrustedKey) -> bool:
    from securesystemslib.exceptions import VerificationError
    from securesystemslib.signer import SSlibKey

    known: list[Key] = [SSlibKey.from_crypto(key.public, key.key_id)]
    try:
        envelope.verify(known, 1)
    except VerificationError:
        return False
    return True
