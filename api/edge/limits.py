"""What one connection may cost, and how many there may be. Values only; ``api.edge.connection`` keeps to them."""

from __future__ import annotations

from dataclasses import dataclass, field

from api.edge.paths import PathRule, path_rule
from api.server_settings import Settings

PROBE_PATHS = frozenset({"/v1/health/live", "/v1/health/ready", "/health", "/ping", "/v1/metrics", "/metrics"})
"""What the reserved connections and the management port serve. A trailing slash makes no difference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Bounds of time, size and number.

    ``header_timeout_s`` and ``body_timeout_s`` bound the whole head and the whole body, not the gap between two bytes:
    a byte now and then keeps nothing open. ``write_timeout_s`` is how long a client may leave the write buffer full.
    """

    max_connections: int = 1024
    num_reserved: int = 16  # beside the others, for PROBE_PATHS only
    header_timeout_s: float = 10.0
    body_timeout_s: float = 60.0
    idle_timeout_s: float = 65.0  # longer than the idle limit of common proxies, so that they close first
    write_timeout_s: float = 30.0
    max_header_bytes: int = 64 * 1024  # request line included
    max_target_bytes: int = 8 * 1024
    max_headers: int = 100
    max_pipelined: int = 64  # requests that wait for the answer before theirs
    paths: PathRule = field(default_factory=PathRule)  # how PROBE_PATHS may be written


def limits_from(settings: Settings) -> ConnectionLimits:
    """The limits that the settings ask for."""
    return ConnectionLimits(
        max_connections=settings.max_connections,
        header_timeout_s=settings.header_timeout_s,
        body_timeout_s=settings.body_timeout_s,
        idle_timeout_s=settings.idle_timeout_s,
        write_timeout_s=settings.write_timeout_s,
        max_header_bytes=settings.max_header_bytes,
        paths=path_rule(settings, PROBE_PATHS),
    )
