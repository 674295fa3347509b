"""The package and adapters that a server which requires signatures may serve, or why not. Knows no key's arithmetic."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from runtime.adapters.peft import AdapterCheck
from runtime.errors import TrustError
from runtime.package.manifest import Package, load_package
from runtime.trust.adapter_signature import verify_adapter
from runtime.trust.trust_file import TrustedKey, read_trust_file
from runtime.trust.verify import verify_package

from api.server_settings import Settings

_LOG = logging.getLogger("powertrain.server")


def package_reader(settings: Settings) -> Callable[[Path], Package]:
    """What reads and verifies a package's folder, as the settings want it. Raises TrustError for the trust file."""
    if not settings.require_signature or settings.trust_file is None:
        return load_package
    return partial(trusted_package, trusted=read_trust_file(Path(settings.trust_file)))


def adapter_check(settings: Settings) -> AdapterCheck | None:
    """What looks at an adapter before it is used, as the settings want it; None: nothing. Raises TrustError for the
    trust file, as the check does for an adapter that no key of the file signed as it is."""
    if not settings.require_signature or settings.trust_file is None:
        return None
    return partial(_check_adapter, trusted=read_trust_file(Path(settings.trust_file)))


def _check_adapter(folder: Path, found: Mapping[str, str], trusted: Mapping[str, TrustedKey]) -> None:
    signers = verify_adapter(folder, found, trusted, datetime.datetime.now(datetime.UTC).date())
    _LOG.info("the adapter in %s is signed by %s", folder.name, ", ".join(signers))


def trusted_package(folder: Path, trusted: Mapping[str, TrustedKey]) -> Package:
    """The package, verified to the last byte. Raises PackageError, and TrustError naming what is not as it was signed.

    Kernels that were compiled from its plans are signed by nobody, so they go, and are compiled anew.
    """
    verified = verify_package(folder, trusted, datetime.datetime.now(datetime.UTC).date())
    for path in verified.kernels:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise TrustError(f"{path.name} is not signed and cannot be removed ({error.strerror})") from error
        _LOG.info("%s is not signed: removed, it will be compiled anew", path.name)
    _LOG.info("the package is signed by %s", ", ".join(verified.signers))
    return verified.package
