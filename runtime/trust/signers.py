"""Which trusted keys signed exactly the files that lie there? The same question for packages and for adapters.

Knows digests, statements and keys; knows neither what the files are nor where they come from.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import TrustError
from runtime.trust.signatures import STATEMENT_TYPE, SignedStatement, Statement, read_signatures
from runtime.trust.trust_file import TrustedKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a signature has to say. ``found`` are the files that lie there, path -> sha256, and ``name`` what a
    statement calls the whole of them, which a key must be for. ``kind`` is the statement's predicate type, in words
    ``kind_words``; ``sign_line`` the command that signs.
    """

    found: Mapping[str, str]
    name: Callable[[Statement], str]
    kind: str
    kind_words: str
    sign_line: str


def trusted_signers(
    file: Path, claim: Claim, trusted: Mapping[str, TrustedKey], today: datetime.date
) -> tuple[str, ...]:
    """The names of the trusted keys whose signature in ``file`` is over what the claim says; one at least.

    Raises TrustError with the reason of each signature that does not count.
    """
    shown, signatures = file.parent.name, read_signatures(file, trusted)
    if not signatures:
        raise TrustError(f"{shown} is not signed; sign it with '{claim.sign_line}'")
    refusals: list[str] = []
    signers: list[str] = []
    for signed in signatures:
        reason = _refusal(signed, claim, trusted, today)
        if reason is None:
            signers += [trusted[name].name for name in signed.held]
        else:
            refusals.append(reason)
    if not signers:
        raise TrustError(f"{shown} is not signed by a trusted key: {'; '.join(dict.fromkeys(refusals))}")
    return tuple(dict.fromkeys(signers))


def _refusal(
    signed: SignedStatement, claim: Claim, trusted: Mapping[str, TrustedKey], today: datetime.date
) -> str | None:
    """Why one statement does not count; None if it does."""
    unknown = [name for name in signed.named if name not in trusted]
    if unknown:
        return f"the trust file holds no key {unknown[0][:12]}"
    if signed.held != signed.named:
        broken = next(name for name in signed.named if name not in signed.held)
        return f"the signature by {trusted[broken].name!r} does not fit what it signs"
    statement, digests = signed.statement, signed.statement.digests
    if (statement.type, statement.predicate_type) != (STATEMENT_TYPE, claim.kind):
        return f"what is signed is no statement of {claim.kind_words}"
    for name in signed.held:
        if (reason := trusted[name].refusal(claim.name(statement), today)) is not None:
            return reason
    signer = trusted[signed.held[0]].name
    for name, digest in claim.found.items():
        if name not in digests:
            return f"{name} was added after {signer!r} signed; sign it again"
        if digests[name] != digest:
            return f"{name} is not the one that {signer!r} signed"
    return None
