"""Accepts connections, also when the process has no descriptor left. Knows sockets; knows no HTTP.

The event loop's own servers close what they cannot accept, without a word. Here a few descriptors are held back: when
the others are used up, one is given back for as long as it takes, and the log says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable
from typing import Any

from api.edge.connection import Connection
from api.edge.connection_table import ConnectionTable
from api.edge.tls import ServerCertificate

_BACKLOG = 2048
_BURST = 64  # accepted before other work gets its turn
_RETRY_S = 0.05
_TLS_GOODBYE_S = 5.0  # for a client to end its side of an encrypted connection
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class SpareDescriptors:
    """Descriptors held back for the moment when there are no others."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._held: list[int] = []
        self.refill()

    def refill(self) -> bool:
        """Take back as many as there are room for; True when all are held."""
        with contextlib.suppress(OSError):
            while len(self._held) < self._count:
                self._held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        return len(self._held) == self._count

    def release(self) -> bool:
        """Give one back to the process; False when none is held."""
        if not self._held:
            return False
        os.close(self._held.pop())
        return True

    def close(self) -> None:
        """Give all back."""
        while self.release():
            pass


class Listener:
    """One listening socket. ``make`` builds the protocol of a connection; its argument says whether for probes only.

    With a ``certificate`` every connection begins with a TLS handshake, for which it has the time of a request's head.
    """

    def __init__(
        self,
        sock: socket.socket,
        table: ConnectionTable,
        make: Callable[[bool], Connection],
        spare: SpareDescriptors,
        certificate: ServerCertificate | None = None,
    ) -> None:
        self._sock = sock
        self._table = table
        self._make = make
        self._spare = spare
        self._certificate = certificate
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        sock.listen(_BACKLOG)
        self._loop.add_reader(sock, self._accept_some)

    def close(self) -> None:
        """Accept nothing more; the socket itself is the caller's."""
        self._loop.remove_reader(self._sock)
        if self._timer is not None:
            self._timer.cancel()

    def _accept_some(self) -> None:
        self._spare.refill()  # what connections gave back, before a newcomer takes it
        for _ in range(_BURST):
            try:
                accepted, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:  # the client gave up while it waited
                continue
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                self._accept_without_room(error)
                return
            self._open(accepted, probes_only=not self._table.admit())

    def _accept_without_room(self, error: OSError) -> None:
        """Let the longest waiting connection go, and use a spare descriptor until its own is free."""
        self._table.log.warning(
            "no descriptor is left for a connection: %s; raise the limit (ulimit -n)", error.strerror
        )
        self._table.note("no_descriptor")
        probes_only = not self._table.admit(exhausted=True)
        if self._spare.release():
            with contextlib.suppress(OSError):
                accepted, _ = self._sock.accept()
                self._open(accepted, probes_only=probes_only)
        else:  # wait for one: the socket stays readable, and the loop would call again at once
            self._loop.remove_reader(self._sock)
        self._retry_later()

    def _retry_later(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(_RETRY_S, self._retry)

    def _retry(self) -> None:
        self._timer = None
        if not self._spare.refill():
            self._retry_later()
        self._loop.add_reader(self._sock, self._accept_some)

    def _open(self, accepted: socket.socket, *, probes_only: bool) -> None:
        connection = self._make(probes_only)
        task = self._loop.create_task(self._connect(connection, accepted))
        if self._certificate is not None:
            connection.opening = task

        def opened(done: asyncio.Task[None]) -> None:
            self._opening.discard(done)
            if done.cancelled():  # it made room for another, perhaps before it had begun
                accepted.close()

        self._opening.add(task)
        task.add_done_callback(opened)

    async def _connect(self, connection: Connection, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: connection, accepted, **self._tls(connection))
        except OSError:  # gone already, or no TLS that this server speaks
            if self._certificate is not None:
                self._table.note("handshake")
            self._table.lost(connection)
            accepted.close()

    def _tls(self, connection: Connection) -> dict[str, Any]:
        if self._certificate is None:
            return {}
        return {
            "ssl": self._certificate.context,
            "ssl_handshake_timeout": connection.handshake_timeout_s,
            "ssl_shutdown_timeout": _TLS_GOODBYE_S,
        }
