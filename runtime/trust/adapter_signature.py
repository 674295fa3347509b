"""Is an adapter, both of its files, what a trusted key has signed?

The signature lies in the adapter's folder, in a file of its own. What else lies there is never opened, so nobody signs
it. A signed statement says what its signer calls the adapter; by which name it is served is the operator's to say.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path

from runtime.errors import TrustError
from runtime.trust.signatures import Statement
from runtime.trust.signers import Claim, trusted_signers
from runtime.trust.trust_file import TrustedKey

ADAPTER_SIGNATURE_FILE = "adapter.intoto.jsonl"
ADAPTER_PREDICATE_TYPE = "urn:powertrain:adapter:1"
"""What statements about adapters say: a package's statement says another, so that neither passes for the other."""


def verify_adapter(
    folder: Path, found: Mapping[str, str], trusted: Mapping[str, TrustedKey], today: datetime.date
) -> tuple[str, ...]:
    """The names of the trusted keys that signed the adapter in ``folder``; one at least.

    ``found`` are the digests of its files as they were read, by name. Raises TrustError with what is wrong.
    """
    claim = Claim(
        found=found,
        name=_signed_name,
        kind=ADAPTER_PREDICATE_TYPE,
        kind_words="an adapter",
        sign_line="powertrain sign --adapter FOLDER --key FILE",
    )
    return trusted_signers(folder / ADAPTER_SIGNATURE_FILE, claim, trusted, today)


def _signed_name(statement: Statement) -> str:
    name = statement.predicate.get("name")
    if not isinstance(name, str) or not name:
        raise TrustError("a signed statement about an adapter does not say the adapter's name")
    return name
