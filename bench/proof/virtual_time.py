"""Simulated time for asyncio: the same client, load and formulas run in exact, deterministic, instant time.

A loop whose clock jumps to the next timer instead of waiting, and a dialler that joins client and server protocols in
memory. This is how the published tables are reproduced to the nanosecond (``bench.proof.prove``) and times tested.
Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Mapping
from typing import Any

_NS_PER_S = 1e9
START_NS = 1_000_000_000
"""Simulated time begins here and not at 0, which records read as "never"."""


class _JumpingSelector(selectors.SelectSelector):
    """Never waits: advances the simulated clock by the time that the loop wanted to sleep."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = START_NS

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Let the time pass at once; no file is ever ready."""
        if timeout is None:
            raise RuntimeError("the simulation waits for something that no timer will ever bring")
        self.now_ns += round(timeout * _NS_PER_S)
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop in simulated time, which moves only when every task waits. Opens no sockets."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        # asyncio runs a timer that is due within the clock's resolution; one nanosecond keeps simulated times exact.
        self._clock_resolution = 1e-9

    def time(self) -> float:
        """Simulated seconds."""
        return self._jumping.now_ns / _NS_PER_S

    def now_ns(self) -> int:
        """Simulated nanoseconds, for a client's clock."""
        return self._jumping.now_ns


class MemoryTransport(asyncio.Transport):
    """One end of a connection in memory. Bytes arrive at the peer in the loop's next pass, in order and at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._loop = loop
        self._protocol = protocol
        self._closing = False
        self.peer: MemoryTransport | None = None

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Send to the peer."""
        if not self._closing and self.peer is not None:
            self._loop.call_soon(self.peer.deliver, bytes(data))

    def deliver(self, data: bytes) -> None:
        """Hand bytes from the peer to this end's protocol."""
        if not self._closing:
            self._protocol.data_received(data)

    def is_closing(self) -> bool:
        """Whether either end has closed."""
        return self._closing

    def close(self) -> None:
        """Close both ends; each protocol hears of it once, without an error."""
        if self._closing:
            return
        self._closing = True
        self._loop.call_soon(self._protocol.connection_lost, None)
        if self.peer is not None:
            self._loop.call_soon(self.peer.close)

    def abort(self) -> None:
        """The same: nothing is buffered here."""
        self.close()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Replace who receives."""
        if not isinstance(protocol, asyncio.Protocol):
            raise TypeError("a stream protocol is needed")
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Who receives."""
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - asyncio's signature
        """Nothing is known of a connection in memory."""
        del name
        return default


class MemoryNetwork:
    """Servers by address, reached without sockets. ``dial_to`` gives what HttpClient takes as its dialler."""

    def __init__(self, servers: Mapping[tuple[str, int], Callable[[], asyncio.Protocol]]) -> None:
        self._servers = dict(servers)

    def dial_to(self, host: str, port: int) -> Callable[..., Any]:
        """A dialler to one address; refuses like a closed port where no server is."""

        async def dial(factory: Callable[[], asyncio.Protocol]) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
            server_factory = self._servers.get((host, port))
            if server_factory is None:
                raise ConnectionRefusedError(111, "Connection refused")
            loop = asyncio.get_running_loop()
            client, server = factory(), server_factory()
            near, far = MemoryTransport(loop, client), MemoryTransport(loop, server)
            near.peer, far.peer = far, near
            server.connection_made(far)
            client.connection_made(near)
            return near, client

        return dial
