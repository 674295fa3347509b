"""Who computes masks: few wake-ups for many jobs, and nobody behind a costly one. Here no thread comes uncalled."""

from __future__ import annotations

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
    threads: MaskThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_threads, "_SHARE", 1)  # only help calls
    began, gate, done = threading.Semaphore(0), threading.Event(), threading.Event()
    assert not threads.help()  # nothing waits

    def costly() -> None:
        began.release()
        gate.wait(60)

    threads.put(costly)
    assert threads.help()
    assert began.acquire(timeout=60)
    threads.put(done.set)
    threads.put(costly)
    assert threads.help()
    assert done.wait(60)
    assert began.acquire(timeout=60)
    threads.put(costly)
    assert not threads.help()  # nobody is left to come
    gate.set()


def test_closing_does_what_was_ordered_before() -> None:
    threads, done = MaskThreads(2), threading.Semaphore(0)
    for _ in range(9):
        threads.put(done.release)
    threads.close()
    assert all(done.acquire(blocking=False) for _ in range(9))


def test_a_mask_behind_a_costly_one_comes_from_another_thread(
    compiler: ConstraintCompiler, threads: MaskThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_threads, "_SHARE", 1)
    monkeypatch.setattr(limits, "BEHIND_WAIT_S", 60.0)
    constraint = compiled(compiler, Pattern("[0-9]{2,4}"))
    began, gate = threading.Event(), threading.Event()

    def costly() -> None:
        began.set()
        gate.wait(60)

    threads.put(costly)
    assert threads.help()
    assert began.wait(60)
    matcher = GrammarMatcher(constraint._copy(), table=constraint._table, threads=threads, on_close=lambda *_told: None)
    matcher.start()
    assert matcher.wait(0)
    assert matcher.mask().any()
    gate.set()
