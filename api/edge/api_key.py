"""One API key as the server holds it: the hash of its secret, and what it opens. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from api.clients.client import ClientLimits


class Role(StrEnum):
    """What a key opens: everything but metrics, metrics alone, or all."""

    CLIENT = "client"
    METRICS = "metrics"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key. ``digest`` is the SHA-256 of the secret: of one length, so comparing it tells nothing of the secret's.

    From ``expires_unix`` on, in seconds since 1970, it opens nothing. One that ``operates`` opens what loads models
    and nothing else: it stands in no list of the others.
    """

    name: str
    digest: bytes = field(repr=False)
    role: Role = Role.ADMIN
    limits: ClientLimits = field(default_factory=ClientLimits)
    expires_unix: float | None = None
    operates: bool = False
