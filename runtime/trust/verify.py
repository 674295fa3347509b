"""Is a package, to the last byte, what a trusted key has signed?

A signed statement names the manifest and each plan with what describes it; the manifest names every other file. Kernels
that a server compiled from a plan are named by nobody: they are reported, and a server that requires signatures removes
them. Knows no server.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.errors import TrustError
from runtime.package.manifest import MANIFEST_FILE, PREDICATE_TYPE, SIGNATURE_FILE, Package, load_package
from runtime.package.package_file import FileSeal, hashed, sha256_of_file
from runtime.package.plan_sidecar import PLAN_FOLDER
from runtime.trust.signers import Claim, trusted_signers
from runtime.trust.trust_file import TrustedKey

_PLAN_TEXTS = (".plan", ".plan.json", ".plan.intoto.json", ".plan.cdx.json")
_KERNELS = ".plan.kernels"


@dataclass(frozen=True, slots=True)
class VerifiedPackage:
    """A package that is wholly what ``signers`` signed, but for ``kernels``: files that nobody signs.

    The package's seals are of all that was signed, plans included.
    """

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
    found: dict[str, str] = {}
    seals: dict[str, FileSeal] = {}
    for name in signed_files(root):
        found[name], seals[name] = hashed(root / name)
    if found[MANIFEST_FILE] != before:
        raise TrustError(f"{root.name} was changed while it was verified; verify it again")
    claim = Claim(
        found=found,
        name=lambda _statement: package.manifest.name,  # which the digest of the manifest covers
        kind=PREDICATE_TYPE,
        kind_words="provenance",
        sign_line="powertrain sign PACKAGE --key FILE",
    )
    signers = trusted_signers(root / SIGNATURE_FILE, claim, trusted, today)
    kernels = sorted(path for path in (root / PLAN_FOLDER).glob("*") if path.name.endswith(_KERNELS))
    return VerifiedPackage(replace(package, seals={**package.seals, **seals}), signers, tuple(kernels))
