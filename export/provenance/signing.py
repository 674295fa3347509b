"""A package or an adapter, and a key ─▶ a signed statement in its folder, which covers every byte that is used."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path

from runtime.adapters.peft import adapter_digests
from runtime.package.manifest import SIGNATURE_FILE, load_package
from runtime.package.package_file import sha256_of_file
from runtime.trust.adapter_signature import ADAPTER_PREDICATE_TYPE, ADAPTER_SIGNATURE_FILE, verify_adapter
from runtime.trust.keys import SigningKey
from runtime.trust.signatures import add_signature, sign_statement
from runtime.trust.trust_file import TrustedKey
from runtime.trust.verify import signed_files

from export.provenance.statement import package_predicate, statement


def sign_package(root: Path, key: SigningKey) -> tuple[str, ...]:
    """Sign the package, its plans included, after checking it; returns the names that the signature holds.

    Another key's signature stays, an older one by this key goes. Raises PackageError and TrustError.
    """
    manifest = load_package(root).manifest
    digests = {name: sha256_of_file(root / name) for name in signed_files(root)}
    payload = statement(digests, package_predicate(manifest, with_times=True))
    add_signature(root / SIGNATURE_FILE, sign_statement(payload, key), key)
    return tuple(digests)


def adapter_signers(folder: Path, trusted: Mapping[str, TrustedKey], today: datetime.date) -> tuple[str, ...]:
    """The names of the trusted keys that signed an adapter as it is now. Raises AdapterError and TrustError."""
    return verify_adapter(folder, adapter_digests(folder), trusted, today)


def sign_adapter(folder: Path, key: SigningKey) -> tuple[str, ...]:
    """Sign an adapter under its folder's name, after reading it; returns the names that the signature holds.

    Another key's signature stays, an older one by this key goes. Raises AdapterError and TrustError.
    """
    digests = adapter_digests(folder)
    payload = statement(digests, {"name": folder.resolve().name}, ADAPTER_PREDICATE_TYPE)
    add_signature(folder / ADAPTER_SIGNATURE_FILE, sign_statement(payload, key), key)
    return tuple(digests)
