"""A package's engine in a replica: opened until ready, asked, checked, closed; scripted, without Ray and sockets."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api.controllers.service import Service
from api.observe.metrics import ServerMetrics
from api.process.launch import engine_config
from api.request.reception import new_reception
from api.server_settings import Settings
from fleet.hosting import engine_host
from fleet.hosting.engine_host import EngineHost, open_host
from fleet.relay.wire import Forwarded
from runtime.constraint.compiler import ConstraintCompiler
from runtime.engine.async_engine import AsyncEngine
from runtime.errors import EngineUnavailable, PackageError
from runtime.text.tokenizer import Tokenizer
from tests.api.programs import VOCAB_SIZE, model_script
from tests.api.scripted_server import MAX_MODEL_LEN, NUM_SLOTS, scripted_model
from tests.fakes import ScriptedSession
from tests.fleet.ray_double import all_of

FOLDER = Path("/models/one")


class Building:
    """``build_service``: services of scripted engines. ``load`` runs on the engine's thread before its session is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.services: list[Service] = []
        self.sessions: list[ScriptedSession] = []
        self.load: Callable[[], None] = lambda: None
        self.may_step = threading.Event()  # the engine does nothing before
        self.may_step.set()
        self.told: list[Any] = []
        monkeypatch.setattr(engine_host, "package_reader", lambda settings: lambda folder: (settings, folder))
        monkeypatch.setattr(engine_host, "build_service", self.build)
        monkeypatch.setattr(Tokenizer, "prepare", lambda _tokenizer: self.told.append("tokenizer"))
        monkeypatch.setattr(ConstraintCompiler, "prepare", lambda _compiler: self.told.append("compiler"))
        monkeypatch.setattr(gc, "freeze", lambda: self.told.append("frozen"))
        monkeypatch.setattr(sys, "setswitchinterval", self.told.append)

    def before_call(self, *_: Any) -> None:
        self.may_step.wait(30)

    def build(self, settings: Settings, package: Any) -> Service:
        self.told.append((settings, package))
        chosen = Settings(num_slots=NUM_SLOTS, allowed_host=("*",))

        def open_session() -> ScriptedSession:
            self.load()
            sizes: dict[str, Any] = {"num_slots": NUM_SLOTS, "max_model_len": MAX_MODEL_LEN, "vocab_size": VOCAB_SIZE}
            self.sessions.append(ScriptedSession(model_script, before_call=self.before_call, **sizes))
            return self.sessions[-1]

        engine, model = AsyncEngine(open_session, engine_config(chosen)), scripted_model(chosen)
        metrics = ServerMetrics(model.base_name, engine.stats, vllm_names=False)
        reception = new_reception(chosen, MAX_MODEL_LEN)
        self.services.append(Service(settings=chosen, model=model, engine=engine, metrics=metrics, reception=reception))
        return self.services[-1]


@pytest.fixture
def building(monkeypatch: pytest.MonkeyPatch) -> Building:
    return Building(monkeypatch)


async def ask(host: EngineHost, text: str = "hello") -> dict[str, Any]:
    """The answer to one conversation, with the status in it."""
    forwarded = Forwarded(
        method="POST", path="/v1/chat/completions", query=b"",
        headers=((b"content-type", b"application/json"), (b"host", b"x")),
        http_version="1.1", client=None, key_name=None, package="one",
        body=json.dumps({"messages": [{"role": "user", "content": text}], "max_tokens": 4}).encode(),
    )  # fmt: skip
    pieces = await all_of(host.answer(forwarded))
    messages = [message for piece in pieces for message in piece.messages]
    body: dict[str, Any] = json.loads(b"".join(message.get("body", b"") for message in messages))
    return {**body, "status": messages[0]["status"]}


def test_a_host_is_ready_when_it_is_open_and_answers_until_it_is_closed(building: Building) -> None:
    async def run() -> None:
        own = Settings(num_slots=7)
        host = await open_host(own, FOLDER)
        (built,) = (told for told in building.told if isinstance(told, tuple))
        assert built[0].model == str(FOLDER)
        assert built[0].num_slots == 7
        assert built[1] == (built[0], FOLDER)
        assert building.told == [0.0005, built, "tokenizer", "compiler", "frozen"]
        ready = [host.is_ready]
        host.check()
        answer = await ask(host)
        assert answer["status"] == 200, answer
        assert answer["usage"]["completion_tokens"] == 4
        assert "num_requests_running" in host.metrics_page()
        await host.close(0.0)
        assert [*ready, host.is_ready] == [True, False]
        assert (await ask(host))["status"] == 503
        assert building.services[0].engine.has_ended

    asyncio.run(run())


def test_running_answers_end_before_a_host_is_closed(building: Building) -> None:
    async def run() -> None:
        host = await open_host(Settings(), FOLDER)
        name = await asyncio.to_thread(lambda: threading.current_thread().name)
        assert name.startswith("text")  # the threads that a server has for texts
        building.may_step.clear()
        asked = asyncio.create_task(ask(host))
        engine = building.services[0].engine
        while not engine.num_live:
            await asyncio.to_thread(lambda: None)
        closing = asyncio.create_task(host.close(30.0))
        while host.is_ready:
            await asyncio.to_thread(lambda: None)
        building.may_step.set()
        answer = await asked
        assert (answer["status"], answer["choices"][0]["finish_reason"]) == (200, "length")
        await closing

    asyncio.run(run())


def test_a_model_that_cannot_be_loaded_is_told_and_nothing_of_it_stays(building: Building) -> None:
    def fail() -> None:
        raise RuntimeError("no room")

    building.load = fail

    async def run() -> None:
        with pytest.raises(PackageError, match=r"could not be loaded: .*no room"):
            await open_host(Settings(), FOLDER)
        assert building.services[0].engine.has_ended
        assert "frozen" not in building.told

    asyncio.run(run())


def test_who_gives_up_while_a_model_loads_leaves_no_engine(building: Building) -> None:
    loads, may_load = threading.Event(), threading.Event()

    def wait() -> None:
        loads.set()
        may_load.wait(30)

    building.load = wait

    async def run() -> None:
        opening = asyncio.create_task(open_host(Settings(), FOLDER))
        assert await asyncio.to_thread(loads.wait, 30)
        opening.cancel()
        await asyncio.wait([opening])
        assert opening.cancelled()
        may_load.set()
        engine = building.services[0].engine
        while not engine.has_ended:
            await asyncio.to_thread(lambda: None)

    asyncio.run(run())


def test_a_dead_engine_fails_the_check(building: Building) -> None:
    async def run() -> None:
        host = await open_host(Settings(), FOLDER)
        building.sessions[0].close()
        building.services[0].engine._hung = True
        assert not host.is_ready
        with pytest.raises(EngineUnavailable):
            host.check()
        building.services[0].engine._hung = False
        await host.close(0.0)

    asyncio.run(run())
