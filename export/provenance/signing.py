"""A package and a key ─▶ a signed statement beside the manifest, which covers every byte that is there."""

from __future__ import annotations

from pathlib import Path

from runtime.package.manifest import load_package, sha256_of_file
from runtime.trust.keys import SigningKey
from runtime.trust.signatures import add_signature, sign_statement
from runtime.trust.verify import signed_files

from export.provenance.statement import package_predicate, statement


def sign_package(root: Path, key: SigningKey) -> tuple[str, ...]:
    """Sign the package, its plans included, after checking it; returns the names that the signature holds.

    Another key's signature stays, an older one by this key goes. Raises PackageError and TrustError.
    """
    manifest = load_package(root).manifest
    digests = {name: sha256_of_file(root / name) for name in signed_files(root)}
    payload = statement(digests, package_predicate(manifest, with_times=True))
    add_signature(root, sign_statement(payload, key), key)
    return tuple(digests)
