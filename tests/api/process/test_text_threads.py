"""The threads for texts: there before the first request."""

from __future__ import annotations

import threading

import pytest

from api.process.text_threads import text_threads
from api.request.turns import NUM_PLACES


def test_no_request_needs_a_thread_that_the_machine_may_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = text_threads()

    def none_left(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    together = threading.Barrier(NUM_PLACES + 1)
    places = [threads.submit(together.wait, 30) for _ in range(NUM_PLACES + 1)]
    assert sorted(place.result() for place in places) == list(range(NUM_PLACES + 1))
    threads.shutdown()
