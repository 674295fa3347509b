"""Threads that a server takes are there before its first request, or it says at once that it cannot have them."""

from __future__ import annotations

import threading

import pytest

from api.errors import SettingsError
from api.process.text_threads import text_threads
from api.process.thread_room import check_threads
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


def test_a_start_that_is_refused_a_thread_ends_those_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = threading.Thread.start, list[threading.Thread]()

    def only_two(thread: threading.Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", only_two)
    with pytest.raises(SettingsError, match="allows 2 more threads or processes here and serving takes about 3; raise"):
        check_threads(3)
    assert not any(thread.is_alive() for thread in started)
    started.clear()
    with pytest.raises(RuntimeError, match="new thread"):
        text_threads()
    for thread in started:
        thread.join(30)
    assert not any(thread.is_alive() for thread in started)
    monkeypatch.undo()
    check_threads()
