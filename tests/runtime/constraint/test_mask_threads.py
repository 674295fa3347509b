"""Who computes masks: few wake-ups for many jobs, and nobody behind a costly one. Here no thread comes uncalled."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator

import pytest

from runtime.constraint import limits, mask_threads
from runtime.constraint.compiler import ConstraintCompiler
from runtime.constraint.mask_threads import MaskThreads
from runtime.constraint.matcher import GrammarMatcher
from runtime.constraint.spec import Pattern
from tests.runtime.constraint.walks import compiled


@pytest.fixture
def threads() -> Iterator[MaskThreads]:
    threads = MaskThreads(2)
    yield threads
    threads.close()


@pytest.fixture
def gate(threads: MaskThreads) -> Iterator[threading.Event]:
    """Opens before the threads are closed, also where a test fails."""
    gate = threading.Event()
    yield gate
    gate.set()


class _Calls:
    """Counts the calls of threads, and calls nobody."""

    def __init__(self) -> None:
        self.count = 0

    def put(self, _is_work: bool) -> None:
        self.count += 1


def test_jobs_that_come_together_share_few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for num_jobs, num_calls in ((1, 1), (4, 1), (5, 2), (16, 2)):
        threads, calls = MaskThreads(2), _Calls()
        with monkeypatch.context() as patched:
            patched.setattr(threads, "_calls", calls)
            for _ in range(num_jobs):
                threads.put(lambda: None)
        assert calls.count == num_calls
        threads.close()


def test_each_burst_of_jobs_finds_a_thread(threads: MaskThreads) -> None:
    done = threading.Semaphore(0)
    for burst in (1, 3, 20, 1, 7):
        for _ in range(burst):
            threads.put(done.release)
        for _ in range(burst):
            assert done.acquire(timeout=60)


def test_a_further_thread_comes_for_what_waits_behind_a_costly_job(
    threads: MaskThreads, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_threads, "_SHARE", 1)  # only help calls
    began, done = threading.Semaphore(0), threading.Event()

    def costly() -> None:
        began.release()
        gate.wait(60)

    monkeypatch.setattr(limits, "BEHIND_WAIT_S", 60.0)
    assert not threads.help()  # nothing waits, and nothing ever moved
    threads.put(costly)
    assert threads.help()
    assert began.acquire(timeout=60)
    threads.put(lambda: setattr(threads, "_moved_s", -math.inf))  # what counts is what is taken from here on
    threads.put(done.set)
    threads.put(costly)
    assert threads.help()
    assert done.wait(60)
    assert began.acquire(timeout=60)
    threads.put(costly)
    assert threads.help()  # a job was begun within the last minute
    monkeypatch.setattr(limits, "BEHIND_WAIT_S", 0.0)
    assert not threads.help()  # both threads are kept, and nobody is left to come


def test_closing_does_what_was_ordered_before() -> None:
    threads, done = MaskThreads(2), threading.Semaphore(0)
    for _ in range(9):
        threads.put(done.release)
    threads.close()
    assert all(done.acquire(blocking=False) for _ in range(9))


def test_all_masks_behind_a_costly_one_come_from_another_thread_in_one_look(
    compiler: ConstraintCompiler, threads: MaskThreads, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_threads, "_SHARE", 1)
    monkeypatch.setattr(limits, "BEHIND_WAIT_S", 60.0)
    constraint = compiled(compiler, Pattern("[0-9]{2,4}"))
    began = threading.Semaphore(0)

    def costly() -> None:
        began.release()
        gate.wait(60)

    def matcher() -> GrammarMatcher:
        told = {"table": constraint._table, "on_close": lambda *_told: None}
        return GrammarMatcher(constraint._copy(), threads=threads, **told)  # type: ignore[arg-type]

    threads.put(costly)
    assert threads.help()
    assert began.acquire(timeout=60)
    behind = [matcher() for _ in range(9)]
    for each in behind:
        each.start()
    assert all(each.wait(0) for each in behind)
    assert all(each.mask().any() for each in behind)

    threads.put(costly)
    assert threads.help()
    assert began.acquire(timeout=60)
    late = matcher()
    late.start()
    monkeypatch.setattr(limits, "BEHIND_WAIT_S", 0.0)
    assert not late.wait(0)  # nobody is left to compute it, and the engine does not wait
