"""Ed25519 keys: made, written to a file that its owner alone may read, read again, and told by their ids.

A key's id is the sha256 of its public half (SubjectPublicKeyInfo, DER). Knows no envelope and no package.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.errors import TrustError
from runtime.install import install_line
from runtime.package.package_file import read_at_most

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_KEY_FILE_MAX_BYTES = 16 * 2**10


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key; never shown."""

    private: Ed25519PrivateKey = field(repr=False)

    @property
    def public(self) -> Ed25519PublicKey:
        """The half that a trust file holds."""
        return self.private.public_key()

    @property
    def key_id(self) -> str:
        """See the module."""
        return key_id(self.public)


def check_installed() -> None:
    """Raise TrustError, with the line that installs them, where the libraries of signatures are missing."""
    try:
        import cryptography  # noqa: F401
        import securesystemslib  # noqa: F401
    except ImportError as error:
        line = install_line("sign", "powertrain[sign]")
        raise TrustError(f"signatures need cryptography and securesystemslib: {line}") from error


def new_key(path: Path) -> SigningKey:
    """Make a key and write it to a new file (PEM, PKCS #8) of mode 0600. Raises TrustError if the file is there."""
    check_installed()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    private = Ed25519PrivateKey.generate()
    data = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise TrustError(f"{path} is there already; a key is never overwritten: name another file") from error
    except OSError as error:
        raise TrustError(f"{path} cannot be written ({error.strerror})") from error
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    return SigningKey(private)


def read_key(path: Path) -> SigningKey:
    """A key that ``new_key``, or ``openssl genpkey -algorithm ed25519``, wrote. Raises TrustError.

    A file that others than its owner may read or write is refused.
    """
    check_installed()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        status = path.stat()
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise TrustError(f"{path} can be read or written by others than its owner; run: chmod 600 {path}")
        data = read_at_most(path, _KEY_FILE_MAX_BYTES)
        if data is None:
            raise TrustError(f"{path} has more than {_KEY_FILE_MAX_BYTES:,} bytes; it is not a key")
        private = load_pem_private_key(data, password=None)
    except OSError as error:
        raise TrustError(
            f"{path} cannot be read ({error.strerror}); 'powertrain sign --new-key' makes a key"
        ) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise TrustError(f"{path} is not an unencrypted private key in PEM form") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise TrustError(f"{path} is a key of another kind; only Ed25519 keys sign packages")
    return SigningKey(private)


def public_text(public: Ed25519PublicKey) -> str:
    """A public key as a trust file holds it: base64 of its 32 bytes."""
    return base64.b64encode(public.public_bytes_raw()).decode("ascii")


def public_from_text(text: str) -> Ed25519PublicKey:
    """The reverse. Raises ValueError for anything else."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("it is not base64") from error
    return Ed25519PublicKey.from_public_bytes(raw)


def key_id(public: Ed25519PublicKey) -> str:
    """The id of a public key, in lowercase hex."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
