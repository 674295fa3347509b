"""Is a package, to the last byte, what a trusted key has signed?

A signed statement names the manifest and each plan with what describes it; the manifest names every other file. Kernels
that a server compiled from a plan are named by nobody: they are reported, and a server that requires signatures removes
them. Knows no server.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import TrustError
from runtime.package.manifest import MANIFEST_FILE, PREDICATE_TYPE, Package, load_package, sha256_of_file
from runtime.package.plan_sidecar import PLAN_FOLDER
from runtime.trust.signatures import STATEMENT_TYPE, SignedStatement, read_signatures
from runtime.trust.trust_file import TrustedKey

_PLAN_TEXTS = (".plan", ".plan.json", ".plan.intoto.json", ".plan.cdx.json")
_KERNELS = ".plan.kernels"


@dataclass(frozen=True, slots=True)
class VerifiedPackage:
    """A package that is wholly what ``signers`` signed, but for ``kernels``: files that nobody signs."""

    package: Package
    signers: tuple[str, ...]
    kernels: tuple[Path, ...]


def signed_files(root: Path) -> list[str]:
    """What a signature must name, relative to the package: the manifest, then what was added to it later."""
    plans = sorted(path.name for path in (root / PLAN_FOLDER).glob("*") if path.name.endswith(_PLAN_TEXTS))
    return [MANIFEST_FILE, *(f"{PLAN_FOLDER}/{name}" for name in plans)]


def verify_package(root: Path, trusted: Mapping[str, TrustedKey], today: datetime.date) -> VerifiedPackage:
    """Check every byte of a package. Raises PackageError for one that is not whole, TrustError for one not trusted."""
    before = sha256_of_file(root / MANIFEST_FILE) if (root / MANIFEST_FILE).is_file() else ""
    package = load_package(root)
    found = {name: sha256_of_file(root / name) for name in signed_files(root)}
    if found[MANIFEST_FILE] != before:
        raise TrustError(f"{root.name} was changed while it was verified; verify it again")
    signatures = read_signatures(root, trusted)
    if not signatures:
        raise TrustError(f"{root.name} is not signed; sign it with 'powertrain sign PACKAGE --key FILE'")
    refusals: list[str] = []
    signers = []
    for signed in signatures:
        reason = _refusal(signed, found, trusted, package.manifest.name, today)
        if reason is None:
            signers += [trusted[name].name for name in signed.held]
        else:
            refusals.append(reason)
    if not signers:
        raise TrustError(f"{root.name} is not signed by a trusted key: {'; '.join(dict.fromkeys(refusals))}")
    kernels = sorted(path for path in (root / PLAN_FOLDER).glob("*") if path.name.endswith(_KERNELS))
    return VerifiedPackage(package, tuple(dict.fromkeys(signers)), tuple(kernels))


def _refusal(
    signed: SignedStatement,
    found: Mapping[str, str],
    trusted: Mapping[str, TrustedKey],
    package: str,
    today: datetime.date,
) -> str | None:
    """Why one statement does not make the package trusted; None if it does."""
    unknown = [name for name in signed.named if name not in trusted]
    if unknown:
        return f"the trust file holds no key {unknown[0][:12]}"
    if signed.held != signed.named:
        broken = next(name for name in signed.named if name not in signed.held)
        return f"the signature by {trusted[broken].name!r} does not fit what it signs"
    for name in signed.held:
        if (reason := trusted[name].refusal(package, today)) is not None:
            return reason
    statement, digests = signed.statement, signed.statement.digests
    if (statement.type, statement.predicate_type) != (STATEMENT_TYPE, PREDICATE_TYPE):
        return "what is signed is no statement of provenance"
    for name, digest in found.items():
        if name not in digests:
            return f"{name} was added after {trusted[signed.held[0]].name!r} signed; sign the package again"
        if digests[name] != digest:
            return f"{name} is not the one that {trusted[signed.held[0]].name!r} signed"
    return None
