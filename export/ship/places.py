"""Which place a reference means: a registry or a store, opened for a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.errors import TransferError
from export.ship.depot import Depot
from export.ship.reference import OCI, STORES, Reference
from export.ship.registry import Registry
from export.ship.store import Store


@contextmanager
def open_place(reference: Reference, docker_config: Path | None, *, plain_http: bool = False) -> Iterator[Depot]:
    """The place where a reference lies. ``docker_config`` is docker's ``config.json``, if any, with its logins.

    Raises TransferError for a scheme that nothing here speaks.
    """
    if reference.scheme == OCI:
        with Registry(reference, docker_config, plain_http=plain_http) as registry:
            yield registry
    elif reference.scheme in STORES:
        yield Store(reference)
    else:
        known = ", ".join(f"{name}://" for name in (OCI, *sorted(STORES - {"memory"})))
        raise TransferError(f"{reference.scheme}:// is no place for packages; there are {known}")
