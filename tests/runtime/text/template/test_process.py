"""The process that renders templates: what it may do, how it ends, and that it never outlives the server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from runtime.errors import Overloaded, ProcessUnavailable, TemplateError
from runtime.sealed import process
from runtime.text.template.process import TemplateWorker
from runtime.text.template.wire import Job, TemplateLimits
from tests.paths import ROOT

NOW = "2026-03-04T05:06:00+00:00"
LONG = "{% for a in range(99) %}{% for b in range(9999) %}{% endfor %}{% endfor %}end"
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def job(source: str) -> Job:
    return Job(source=source, now=NOW, messages=[{"role": "user", "content": "hi"}])


def is_running(pid: int) -> bool:
    """False once a process has ended, also while its parent has not asked for its status."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_busy(pid: int) -> None:
    """Return once a process has computed for three ticks of its clock, which an idle one never does."""

    def ticks() -> int:
        return int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[11])

    first, deadline = ticks(), time.monotonic() + 30
    while ticks() < first + 3:
        assert time.monotonic() < deadline, "the process does nothing"
        time.sleep(0.01)


def wait_until_ended(pid: int) -> None:
    deadline = time.monotonic() + 30
    while is_running(pid):
        assert time.monotonic() < deadline, "the process is still there"
        time.sleep(0.01)


def pid_of_second_attempt(worker: TemplateWorker, first: int) -> int:
    """Return once a job whose first process was ended is another one's, which is told."""
    deadline = time.monotonic() + 30
    while True:
        for child in tuple(worker._process._children):
            if child.pid != first and child._is_started:
                return child.pid
        assert time.monotonic() < deadline, "no other process has started"
        time.sleep(0.01)


@linux
def test_a_worker_has_no_environment_no_files_and_no_privileges() -> None:
    worker = TemplateWorker()
    worker.submit(job("x")).result()
    folder = Path("/proc") / str(worker.pid)
    assert (folder / "environ").read_bytes() == b""
    assert sorted(path.name for path in (folder / "fd").iterdir()) == ["0", "1", "2"]
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    assert (status["NoNewPrivs"].strip(), status["Seccomp"].strip()) == ("1", "2")
    limits = (folder / "limits").read_text()
    for name in ("Max open files            3", "Max file size             0", "Max core file size        0"):
        assert name in limits
    assert f"Max address space         {worker.limits.memory_bytes}" in limits
    worker.close()


@linux
def test_sealed_code_can_neither_open_nor_start_nor_connect_nor_signal() -> None:
    """What a template that broke out of Jinja2's sandbox would find."""
    code = """
import ctypes, os, signal, socket, sys
from runtime.sealed.seal import seal
assert seal(1 << 30) is None
tries = {
    "open": lambda: os.open("/etc/hostname", os.O_RDONLY),
    "fork": os.fork,
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "socket": socket.socket,
    "kill": lambda: os.kill(os.getppid(), signal.SIGTERM),
    "unlink": lambda: os.unlink("/tmp/none"),
}
for name, attempt in tries.items():
    try:
        attempt()
    except PermissionError:
        continue
    print(name)
print("end")
"""
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "end\n"


def test_a_job_that_runs_too_long_is_killed_and_the_next_one_served() -> None:
    worker = TemplateWorker(limits=TemplateLimits(deadline_s=0.3))
    worker.submit(job("x")).result()
    first = worker.pid
    with pytest.raises(TemplateError, match=r"ran for longer than the 0\.3 s that are allowed"):
        worker.submit(job(ENDLESS)).result()
    assert worker.pid not in {None, first}  # started again at once
    assert worker.submit(job("x")).result().text == "x"
    worker.close()


@linux
def test_a_killed_process_costs_no_job_and_close_leaves_none(tmp_path: Path) -> None:
    worker = TemplateWorker(limits=TemplateLimits(deadline_s=30))
    worker.submit(job("x")).result()
    first = worker.pid
    assert first is not None
    running = worker.submit(job(LONG))
    wait_until_busy(first)  # amid the job
    os.kill(first, signal.SIGKILL)
    assert running.result().text == "end"
    second = worker.pid
    assert second not in {None, first}
    assert second is not None
    os.kill(second, signal.SIGTERM)  # between two jobs, as a service manager that ends every process of a unit does
    wait_until_ended(second)
    assert worker.submit(job("x")).result().text == "x"
    worker.close()
    assert not is_running(first)
    assert not is_running(second)
    assert worker.submit(job("x")).result().text == "x"
    last = worker.pid
    assert last is not None
    del worker, running
    wait_until_ended(last)


@linux
def test_who_ends_two_processes_is_not_taken_for_the_template(caplog: pytest.LogCaptureFixture) -> None:
    worker = TemplateWorker(limits=TemplateLimits(deadline_s=30))
    worker.submit(job("x")).result()
    first = worker.pid
    assert first is not None
    running = worker.submit(job(ENDLESS))
    wait_until_busy(first)
    os.kill(first, signal.SIGKILL)
    os.kill(pid_of_second_attempt(worker, first), signal.SIGTERM)
    with pytest.raises(ProcessUnavailable, match=r"^the process for chat templates was ended from outside, twice; try"):
        running.result()
    assert [record.args for record in caplog.records] == [
        ("chat templates", "was ended by SIGKILL"),
        ("chat templates", "was ended by SIGTERM"),
    ]
    assert worker.submit(job("x")).result().text == "x"
    worker.close()


@pytest.mark.parametrize("end", ["os._exit(3)", "os.close(0), time.sleep(60)", "ctypes.string_at(1)"])
def test_a_template_that_ends_its_process_is_to_blame(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever way it found: the process is ended, closed from inside, or falls over its own memory."""
    broken = (
        "import sys, os, time, ctypes; from importlib import import_module; sys.path[:] = sys.argv[3:]; "
        f"import runtime.text.template.worker as worker; worker._answer = lambda *_job: ({end}); "
        "worker.main(int(sys.argv[2]))"
    )
    worker = TemplateWorker()
    monkeypatch.setattr(process, "_END_S", 0.1)
    monkeypatch.setattr(process, "_BOOT", broken)
    with pytest.raises(TemplateError, match="crashed the process that renders it"):
        worker.submit(job("x")).result()
    monkeypatch.undo()
    assert worker.submit(job("x")).result().text == "x"  # though the one that was started at once is broken too
    worker.close()


@linux
def test_the_process_dies_with_a_server_that_is_killed() -> None:
    """Also in the middle of a job, when it would not notice the closed channel for long."""
    code = f"""
from runtime.text.template.process import TemplateWorker
from runtime.text.template.wire import Job, TemplateLimits
worker = TemplateWorker(limits=TemplateLimits(deadline_s=60))
worker.submit(Job(source="x", now="{NOW}", messages=[])).result()
worker.submit(Job(source="{ENDLESS}" * 9, now="{NOW}", messages=[]))
print(worker.pid, flush=True)
input()
"""
    command = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as server:
        assert server.stdout is not None
        pid = int(server.stdout.readline())
        assert is_running(pid)
        server.kill()
    wait_until_ended(pid)


def test_the_queue_is_bounded() -> None:
    worker = TemplateWorker(limits=TemplateLimits(deadline_s=0.5), queue=2)
    jobs = [worker.submit(job(ENDLESS)), worker.submit(job("x"))]
    with pytest.raises(Overloaded, match="2 chat templates wait"):
        worker.submit(job("x"))
    with pytest.raises(TemplateError):
        jobs[0].result()
    assert jobs[1].result().text == "x"
    assert worker.submit(job("y")).result().text == "y"
    worker.close()


def test_a_process_that_cannot_start_is_the_server_s_failure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker = TemplateWorker()
    monkeypatch.setattr(process, "_BOOT", "raise SystemExit(3)")
    with pytest.raises(ProcessUnavailable, match="cannot start its process for chat templates at the moment; try"):
        worker.submit(job("x")).result()
    assert caplog.messages[-1].endswith("its requests get 503: it ended at once, with status 3")
    monkeypatch.undo()
    assert worker.submit(job("x")).result().text == "x"
    worker.close()


def test_a_machine_without_a_thread_left_costs_no_place_in_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = TemplateWorker(queue=1)

    def none_left(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    for _ in range(2):
        with pytest.raises(ProcessUnavailable, match="cannot start its thread for chat templates"):
            worker.submit(job("x"))
    monkeypatch.undo()
    assert worker.submit(job("y")).result().text == "y"
    worker.close()


def test_jobs_and_renderings_of_many_megabytes_pass() -> None:
    worker = TemplateWorker(limits=TemplateLimits(deadline_s=30))
    big = Job(source="{{ messages[0].content }}", now=NOW, messages=[{"role": "user", "content": "é" * 5_000_000}])
    assert len(worker.submit(big).result().text) == 5_000_000
    worker.close()
