"""Measures what each nasty body costs the event loop and a stream that runs beside it, on a real model.

    python -m tests.security.measure_loop [models/NAME] [--max-body-bytes N]

Per body: the loop's largest gap, the stream's median and largest time between chunks, the answer's status and time.
Client and server share this process: the bodies go out through plain sockets, whose calls release the interpreter
lock.
"""

from __future__ import annotations

import argparse
import gc
import socket
import statistics
import threading
import time
from pathlib import Path

from api.server_settings import Settings
from tests.paths import MODELS
from tests.security.loop_probe import LoopProbe
from tests.security.nasty_bodies import CHAT, nasty_bodies
from tests.security.real_server import real_server

_STREAM = (
    b'{"messages":[{"role":"user","content":"Tell a long story."}],"stream":true,"max_tokens":2000,"ignore_eos":true}'
)


class Victim:
    """A stream that never ends; ``take`` returns the times between its chunks since the last call."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._gaps: list[float] = []
        self._stopped = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def take(self) -> list[float]:
        """Seconds between chunks."""
        gaps, self._gaps = self._gaps, []
        return gaps

    def stop(self) -> None:
        """Close the connection."""
        self._stopped = True
        self._thread.join(timeout=10)

    def _read(self) -> None:
        while True:
            with socket.create_connection(("127.0.0.1", self._port), timeout=60) as connection:
                connection.sendall(_request(CHAT, _STREAM))
                last = 0.0
                while connection.recv(65536):
                    now = time.perf_counter()
                    if last:
                        self._gaps.append(now - last)
                    last = now
                    if self._stopped:
                        return


def _request(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def _send(port: int, raw: bytes) -> tuple[str, float]:
    begin = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        answer = b""
        try:
            connection.sendall(raw)
            while block := connection.recv(65536):
                answer = answer or block
        except TimeoutError:
            return "none", time.perf_counter() - begin
        except ConnectionError:  # refused while it was sent
            pass
    return answer[9:12].decode() or "cut", time.perf_counter() - begin


def main() -> None:
    """Print one line per body and a summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=MODELS / "smollm2-135m-instruct")
    parser.add_argument("--max-body-bytes", type=int, default=None)
    options = parser.parse_args()
    with real_server(options.model, Settings(max_body_bytes=options.max_body_bytes)) as (server, port):
        assert server._loop is not None
        limit_bytes = server._service.reception.limits.max_bytes
        raw = [(body.name, _request(body.path, body.body)) for body in nasty_bodies(limit_bytes)]
        raw.append(("ten megabytes of digits", _request("/v1/completions", b'{"prompt":"' + b"1" * 10**7 + b'"}')))
        gc.collect()
        victim, probe = Victim(port), LoopProbe(server._loop)
        time.sleep(3)
        probe.take()
        usual = statistics.median(victim.take())
        print(f"bodies of {limit_bytes} bytes; the stream alone: {usual * 1e3:.1f} ms between chunks")
        gaps, medians = [], []
        for name, request in raw:
            probe.take()
            victim.take()
            status, took_s = _send(port, request)
            time.sleep(0.2)
            gaps.append((probe.take(), name))
            between = victim.take() or [0.0]
            medians.append(statistics.median(between))
            print(
                f"{gaps[-1][0] * 1e3:7.1f} ms gap  stream {medians[-1] * 1e3:6.1f} median {max(between) * 1e3:6.1f} "
                f"largest  {status} after {took_s * 1e3:7.1f} ms  {name}",
                flush=True,
            )
        victim.stop()
        probe.stop()
        print(f"largest gap {max(gaps)[0] * 1e3:.1f} ms, by {max(gaps)[1]}")
        print(
            f"the stream's median between chunks: {statistics.median(medians) / usual:.2f} times the usual, "
            f"at worst {max(medians) / usual:.2f}"
        )


if __name__ == "__main__":
    main()
