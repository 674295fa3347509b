"""Keeps a cluster of this machine alone on loopback. Owns the two places where Ray 2.60 has no option for it.

Whoever reaches one of Ray's ports and has its token runs code. Ray listens on loopback alone for a node whose address
is 127.0.0.1, and on every address otherwise; but it replaces that address by the machine's. And each Serve replica has
a server for its neighbours on every address. Both functions replace one name in Ray's own modules; the test that looks
at a running fleet's sockets says when another version of Ray needs other names.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray._private.services
import ray.serve._private.replica


@contextmanager
def node_on_loopback() -> Iterator[None]:
    """While it lasts, Ray takes 127.0.0.1 at its word as a node's address."""
    services = ray._private.services  # noqa: SLF001
    before = services.resolve_ip_for_localhost
    services.resolve_ip_for_localhost = lambda host: host
    try:
        yield
    finally:
        services.resolve_ip_for_localhost = before


def replica_on_loopback() -> None:
    """Have this process's replica listen on loopback. Call it in the replica's constructor: Ray binds after that."""
    replica = ray.serve._private.replica  # noqa: SLF001
    before = replica.add_port_to_grpc_server

    def bind(server: Any, address: str) -> int:  # noqa: ANN401 - grpc's
        return int(before(server, address.replace("[::]", "127.0.0.1")))

    replica.add_port_to_grpc_server = bind
