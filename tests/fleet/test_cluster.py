"""A cluster of this machine alone and the process that serves on it, on doubles: its start, signals, its end."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from api.errors import SettingsError
from api.server_settings import Settings
from api.settings import ResolvedSettings
from fleet.errors import FleetError
from fleet.process import serving
from fleet.process.serving import serve_fleet
from runtime.commands.surroundings import Surroundings
from tests.api.edge.test_tls import make
from tests.fleet.ray_double import OnDoubles, RayActorError, RayServeException
from tests.fleet.test_deployments import spec_of

STARTED = ["init", "serve.start", "serve.run"]
ENDED = ["serve.shutdown", "shutdown"]
LOGGING = {"log_level": "WARNING", "enable_access_log": False}


def local(port: int = 0, **changes: Any) -> Settings:
    return Settings(model="/models/one", port=port, replicas=2, threads=3, backend="cpu", **changes)


def test_what_a_cluster_of_ours_is_asked_for(on_doubles: OnDoubles, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    settings = local(tls_cert="c.pem", tls_key="k.pem", idle_timeout_s=9.5)
    spec = dataclasses.replace(spec_of(settings), threads=3, max_replicas=5)
    with on_doubles.modules["cluster"].running_cluster(spec) as port:
        assert port > 0
        assert on_doubles.cluster.names() == STARTED[:2]
    (_, init), (_, start) = on_doubles.cluster.calls[:2]
    assert init == {
        "address": "local", "num_cpus": 15, "include_dashboard": False, "object_store_memory": 2**27,
        "_node_ip_address": "127.0.0.1", "node": "127.0.0.1", "logging_level": logging.WARNING, "log_to_driver": True,
        "_system_config": {"worker_niceness": 0},
    }  # fmt: skip
    http = {
        "host": "127.0.0.1", "port": port, "keep_alive_timeout_s": 9,
        "ssl_certfile": str(tmp_path / "c.pem"), "ssl_keyfile": str(tmp_path / "k.pem"),
    }  # fmt: skip
    assert start == {"proxy_location": "HeadOnly", "http_options": http, "logging_config": LOGGING}
    assert on_doubles.cluster.names()[2:] == ENDED
    services = on_doubles.loopback.ray._private.services
    assert services.resolve_ip_for_localhost("127.0.0.1") == "address of 127.0.0.1"  # Ray's own again


def test_what_ray_leaves_behind_is_looked_for_after_it_has_ended(on_doubles: OnDoubles, monkeypatch: Any) -> None:
    seen: list[list[str]] = []

    @contextmanager
    def nothing_left() -> Iterator[None]:
        seen.append(on_doubles.cluster.names())
        try:
            yield
        finally:
            seen.append(on_doubles.cluster.names())

    monkeypatch.setattr(on_doubles.modules["cluster"], "nothing_left", nothing_left)
    on_doubles.cluster.fails["serve.start"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt), on_doubles.modules["cluster"].running_cluster(spec_of(local())):
        pass
    assert seen == [[], [*STARTED[:2], *ENDED]]


def test_a_signal_that_rays_handler_took_ends_the_start_whatever_ours_does(on_doubles: OnDoubles) -> None:
    seen: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: seen.append(number))  # as it was, after the test
    on_doubles.cluster.fails["init"] = SystemExit(15)
    with pytest.raises(KeyboardInterrupt), on_doubles.modules["cluster"].running_cluster(spec_of(local())):
        pass
    assert (seen, on_doubles.cluster.names()) == ([signal.SIGTERM], ["init", "shutdown"])


def test_a_port_that_is_taken_is_said_before_ray_starts(on_doubles: OnDoubles) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        spec = spec_of(local(taken.getsockname()[1]))
        with (
            pytest.raises(SettingsError, match="cannot listen on"),
            on_doubles.modules["cluster"].running_cluster(spec),
        ):
            pass
    assert on_doubles.cluster.calls == []


@pytest.mark.parametrize(
    ("fails", "begun", "ended"), [("init", ["init"], ["shutdown"]), ("serve.start", STARTED[:2], ENDED)]
)
def test_a_start_that_fails_ends_what_it_had_started(
    on_doubles: OnDoubles, fails: str, begun: list[str], ended: list[str]
) -> None:
    on_doubles.cluster.fails[fails] = error = ValueError("no memory")
    told = (FleetError, ValueError)
    with (
        pytest.raises(told, match="no memory") as raised,
        on_doubles.modules["cluster"].running_cluster(spec_of(local())),
    ):
        pass
    assert raised.value is error or isinstance(raised.value, FleetError)
    # Serve is asked for nothing where Ray has not started: it would start Ray by itself.
    assert on_doubles.cluster.names() == [*begun, *ended]


def test_ray_ends_also_when_serve_does_not(on_doubles: OnDoubles) -> None:
    on_doubles.cluster.fails["serve.shutdown"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt), on_doubles.modules["cluster"].running_cluster(spec_of(local())):
        pass
    assert on_doubles.cluster.names()[2:] == ENDED


@pytest.mark.parametrize("error", [RuntimeError("x"), RayActorError("x"), RayServeException("x")])
def test_a_fleet_that_does_not_start_is_one_error(on_doubles: OnDoubles, error: Exception) -> None:
    on_doubles.cluster.fails["serve.run"] = error
    with pytest.raises(FleetError, match="the replicas could not be started: x"):
        on_doubles.modules["cluster"].deploy(spec_of(local()))
    ((_, run),) = on_doubles.cluster.calls
    del run["target"]
    assert run == {"name": "powertrain", "route_prefix": "/", "logging_config": LOGGING}


class Served:
    """``serve_fleet`` over the doubles, with signals that come while Ray does something."""

    def __init__(self, on_doubles: OnDoubles, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cluster = on_doubles.cluster
        self.settings = local()
        monkeypatch.setitem(__import__("sys").modules, "fleet.on_ray.cluster", on_doubles.modules["cluster"])
        self.log: list[str] = []
        self.configured: list[Settings] = []
        monkeypatch.setattr(serving, "configure_logging", self.configured.append)
        for name in ("info", "error", "warning"):
            monkeypatch.setattr(serving._LOG, name, lambda text, *more: self.log.append(text % more if more else text))

    def signals(self, *numbers: int, during: str) -> None:
        """``during`` the first such call these signals come."""
        waiting = list(numbers)

        def come() -> None:
            while waiting:
                os.kill(os.getpid(), waiting.pop(0))

        self.cluster.during[during] = come

    def __call__(self) -> list[str]:
        serve_fleet(ResolvedSettings(self.settings, {}), Surroundings(build=Path))
        return self.cluster.names()

    def generations(self) -> list[int]:
        return [given["target"].given[1].generation for name, given in self.cluster.calls if name == "serve.run"]


@pytest.fixture
def served(on_doubles: OnDoubles, named_packages: None, monkeypatch: pytest.MonkeyPatch) -> Served:
    return Served(on_doubles, monkeypatch)


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], list[str]]:
    """Run something when the line that says where the fleet serves is told; the list is such lines."""

    def when(then: Callable[[], None]) -> list[str]:
        lines: list[str] = []

        class Console:
            def __init__(self, **given: Any) -> None:
                assert given["stderr"]  # the output is for answers

            def print(self, text: str, **_more: Any) -> None:
                lines.append(text)
                then()

        monkeypatch.setattr(serving, "Console", Console)
        return lines

    return when


def send(*numbers: int) -> Callable[[], None]:
    def kill() -> None:
        for number in numbers:
            os.kill(os.getpid(), number)

    return kill


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_fleet_serves_until_a_signal(served: Served, announced: Any, number: int) -> None:
    lines = announced(send(number))
    assert served() == [*STARTED, *ENDED]
    assert served.configured == [served.settings]
    (line,) = lines
    assert re.fullmatch(r"Serving \[bold\]one\[/bold\] at http://127.0.0.1:\d+/v1 from 2 replicas", line)
    (_, start) = served.cluster.calls[1]
    assert f":{start['http_options']['port']}/v1" in line
    assert served.log == ["shutting down: running requests have up to 30 s to end"]
    (_, run) = served.cluster.calls[2]
    assert run["target"].given[1].on_loopback


def test_every_package_that_is_named_is_served_or_the_only_one_there_is(
    served: Served, announced: Any, tmp_path: Path
) -> None:
    announced(send(signal.SIGTERM))
    served.settings = local(more_models=("/models/two", "/models/three"))
    served()
    served.settings = dataclasses.replace(local(), model=None)
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "manifest.json").write_text("{}")
    serve_fleet(ResolvedSettings(served.settings, {}), Surroundings(home=lambda: tmp_path))
    runs = [given["target"].given[1] for name, given in served.cluster.calls if name == "serve.run"]
    named = [[package.names[0] for package in spec.packages] for spec in runs]
    assert named == [["one", "two", "three"], ["only"]]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("during", ["init", "serve.start", "serve.run"])
def test_a_signal_ends_a_fleet_that_starts_and_what_it_has_started(
    served: Served, announced: Any, number: int, during: str
) -> None:
    lines = announced(send())
    if (during, number) == ("init", signal.SIGTERM):
        served.cluster.fails["init"] = SystemExit(15)  # Ray's handler of that moment
    else:
        served.signals(number, number, during=during)
    # What comes again meanwhile does not keep it from ending all of it.
    ended: list[bool] = []

    def come_again() -> None:
        send(number)()
        ended.append(True)

    served.cluster.during["shutdown"] = come_again
    begun = STARTED[: STARTED.index(during) + 1]
    assert served() == [*begun, *(ENDED if during != "init" else ENDED[1:])]
    assert ended == [True]
    assert lines == []
    assert served.log == ["ended by a signal, without waiting for anything"]


def test_a_second_signal_waits_for_no_answer(served: Served, announced: Any) -> None:
    announced(send(signal.SIGTERM))
    served.cluster.during["serve.shutdown"] = send(signal.SIGTERM)
    assert served() == [*STARTED, *ENDED]
    assert served.log[-1] == "ended by a signal, without waiting for anything"


def test_each_sighup_replaces_every_replica_and_none_is_lost_that_comes_early(served: Served, announced: Any) -> None:
    served.signals(signal.SIGHUP, during="serve.run")
    announced(send(signal.SIGHUP, signal.SIGTERM))
    assert served() == [*STARTED, "serve.run", "serve.run", *ENDED]
    assert served.generations() == [0, 1, 2]  # each another fleet to Ray
    assert all(given["target"].given[1].on_loopback for name, given in served.cluster.calls if name == "serve.run")
    assert served.log[:2] == ["every replica is replaced"] * 2


def test_what_cannot_replace_a_fleet_is_told_and_leaves_it(served: Served, announced: Any, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text('[[key]]\nname = "a"\nsha256 = "' + "0" * 64 + '"\n')
    keys.chmod(0o600)
    served.settings = local(keys_file=str(keys))

    def break_keys() -> None:
        keys.write_text("[[key]]\nname = 3\n")
        send(signal.SIGHUP, signal.SIGTERM)()

    announced(break_keys)
    assert served() == [*STARTED, *ENDED]  # nothing of it reaches Ray, which would replace what runs
    assert served.log[0].startswith(f"the replicas could not be replaced: keys_file: {keys}: key 1")
    keys.write_text("[[key]]\nname = 3\n")
    served.cluster.calls.clear()
    with pytest.raises(SettingsError, match="key 1"):
        served()
    assert served.cluster.calls == []


def test_a_renewed_certificate_is_said_to_need_a_restart(served: Served, announced: Any, tmp_path: Path) -> None:
    cert, key = make(tmp_path, "fleet")
    served.settings = local(tls_cert=str(cert), tls_key=str(key))
    lines = announced(send(signal.SIGHUP, signal.SIGTERM))
    served()
    assert "at https://127.0.0.1:" in lines[0]
    assert served.log[:2] == [
        "every replica is replaced",
        "the certificate is still that of the start; Ray's proxy reads it once, so a renewed one needs a restart",
    ]
