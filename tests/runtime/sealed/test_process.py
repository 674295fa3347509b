"""A sealed process by itself: its clock, its deadline, and what it says when it cannot start."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys

import msgspec
import pytest

from runtime.errors import ProcessUnavailable
from runtime.sealed.deadline import Deadline, process_clock
from runtime.sealed.frame import body_bytes, framed
from runtime.sealed.job_cost import JobMeter
from runtime.sealed.process import SealedProcess
from runtime.text.template.wire import Job, TemplateLimits


def test_time_is_over_by_the_wall_or_by_what_was_computed() -> None:
    computed = [5.0]
    deadline = Deadline(60, 2, lambda: computed[0])
    assert deadline.left_s() == 2.0
    computed[0] = 6.5
    assert deadline.left_s() == 0.5
    computed[0] = 7.0
    assert 0 < deadline.wall_left_s() <= 60
    with pytest.raises(TimeoutError):
        deadline.left_s()
    with pytest.raises(TimeoutError):
        Deadline(0, None, lambda: 0.0).left_s()
    assert 50 < Deadline(60, None, lambda: 0.0).left_s() <= 60


def test_a_process_s_clock_counts_what_it_computes() -> None:
    clock = process_clock(os.getpid())
    before = clock()
    sum(range(300_000))
    assert clock() > before


def test_a_job_s_cost_counts_from_its_beginning_and_outlives_the_process() -> None:
    held_bytes = 64 * 2**20
    code = f"import sys; input(); held = bytearray({held_bytes}); print(len(held), flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        if child.stdin is None or child.stdout is None:
            pytest.fail("the child has no pipes")
        meter = JobMeter(child.pid)
        child.stdin.write(b"\n")
        child.stdin.flush()
        child.stdout.readline()
        before = meter.look()
        assert before.cpu_s > 0
        assert before.memory_bytes >= held_bytes or sys.platform != "linux"
        child.kill()
    after = meter.look()
    assert after.cpu_s >= before.cpu_s
    assert after.memory_bytes == before.memory_bytes


def test_frames_say_how_long_they_are() -> None:
    frame = framed(b"abc")
    assert frame[4:] == b"abc"
    assert body_bytes(frame[:4]) == 3


def test_a_module_that_cannot_be_served_is_the_server_s_failure() -> None:
    process = SealedProcess("runtime.no_such_module", b"", work="nothing")
    assert process.pid is None
    with pytest.raises(ProcessUnavailable, match="the server cannot start its process for nothing at the moment"):
        process.exchange(b"", 1)
    assert process.pid is None


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (errno.EAGAIN, r"Resource temporarily unavailable \(no more processes are allowed: see ulimit -u, .*\)"),
        (errno.ENOMEM, r"Cannot allocate memory \(the machine, .* has no memory left\)"),
        (errno.ENOENT, "No such file or directory"),
    ],
)
def test_a_machine_that_starts_no_process_is_the_server_s_failure(
    number: int, why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none_left(*_args: object, **_options: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("runtime.sealed.process.subprocess.Popen", none_left)
    with pytest.raises(ProcessUnavailable, match="cannot start its process for nothing at the moment; try again"):
        SealedProcess("runtime.no_such_module", b"", work="nothing").exchange(b"", 1)
    (line,) = caplog.messages
    assert re.fullmatch(f"no process for nothing could be started, its requests get 503: {why}", line)


def test_a_job_s_own_failure_is_told_although_no_other_process_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who took too long gets that for an answer, not that the machine has no process left for the next one."""
    worker = SealedProcess("runtime.text.template.worker", msgspec.msgpack.encode(TemplateLimits()), work="templates")
    worker.start()
    with pytest.raises(EOFError):
        worker.exchange(b"no job", 10)  # a fault of a job that ends the process, twice

    def none_left(*_args: object, **_options: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("runtime.sealed.process.subprocess.Popen", none_left)
    with pytest.raises(TimeoutError):
        worker.exchange(msgspec.msgpack.encode(Job(source="x", now="2026-03-04T05:06:00+00:00", messages=[])), 0)
    assert worker.pid is None
