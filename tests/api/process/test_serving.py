"""``serve`` from settings to the end of its process, around a server that ends at once."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from api.errors import SettingsError
from api.process import serving
from api.settings import resolve_settings
from runtime.commands.surroundings import Surroundings
from runtime.errors import PackageError


def serve(monkeypatch: pytest.MonkeyPatch, *, model: str | None, name: str = "m", **engine: Any) -> list[str]:
    """What was built, served and how the process was left, in order."""
    done: list[str] = []
    known = SimpleNamespace(base_name=name, names=(name,))
    service = SimpleNamespace(
        model=known, engine=SimpleNamespace(start=lambda: done.append("run"), has_ended=False, **engine)
    )
    monkeypatch.setattr(serving, "configure_logging", lambda _settings: None)
    monkeypatch.setattr(serving, "package_reader", lambda _settings: lambda folder: done.append(f"load {folder}"))
    monkeypatch.setattr(serving, "build_service", lambda _settings, _package: service)
    monkeypatch.setattr(serving, "Server", lambda _service, models: SimpleNamespace(run=lambda sockets: models.begin()))
    monkeypatch.setattr("os._exit", lambda status: done.append(f"left {status}"))

    def build(word: str) -> Path:
        done.append(f"build {word}")
        return Path("built")

    given = {"port": 0} if model is None else {"port": 0, "model": model}
    serving.serve(resolve_settings(given, environ={}), Surroundings(home=lambda: Path("nowhere"), build=build))
    return done


def test_a_server_that_ends_while_the_model_loads_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own end would abort in the loading library's threads."""
    assert serve(monkeypatch, model="x", is_loading=True, failure=None) == ["build x", "load built", "run", "left 0"]


def test_a_name_is_shown_as_it_is_written(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    serve(monkeypatch, model="x", name="a [red]b[/x]", is_loading=False, failure=None)
    assert "Serving a [red]b[/x] at http://" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_log_that_takes_nothing_ends_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Path("/dev/full").open("w")  # noqa: SIM115 - its end fails, too
    monkeypatch.setattr("sys.stderr", stream)
    assert serve(monkeypatch, model="x", is_loading=False, failure=None) == ["build x", "load built", "run"]
    monkeypatch.undo()
    with contextlib.suppress(OSError):  # of what its buffer holds
        stream.close()


def test_a_machine_without_room_for_its_threads_is_told_before_anything_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none_left(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    with pytest.raises(SettingsError, match="allows 0 more threads or processes here"):
        serve(monkeypatch, model="x", is_loading=False, failure=None)


def test_a_server_that_ends_otherwise_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    assert serve(monkeypatch, model="x", is_loading=False, failure=None) == ["build x", "load built", "run"]
    with pytest.raises(PackageError, match="the engine failed: weights"):
        serve(monkeypatch, model="x", is_loading=False, failure="weights")


def test_without_a_model_nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PackageError, match="no model package in nowhere"):
        serve(monkeypatch, model=None, is_loading=False, failure=None)
