"""Several models behind one address: chosen by name, loaded on demand, making room, failing alone, and the admin's way.

Two of ``small`` and ``large`` and ``third`` fit the memory at a time.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import openai
import pytest

from api.controllers.admin import operators_only
from api.controllers.known_model import KnownModel
from api.controllers.registry import ModelRegistry
from api.edge.access import API_KEY_KEY
from api.edge.api_key import ApiKey, Role
from api.errors import ConflictError, ForbiddenError
from api.models.room import MemoryNeed
from api.models.state import ModelState
from runtime.engine.async_engine import EngineState
from runtime.errors import DeviceLost
from tests.api.many_models import ADMIN, ManyServer, running_models
from tests.api.scripted_server import chunks_of, content_of
from tests.fakes import Call

SIZES = {"small": 3, "large": 5, "third": 5}


@pytest.fixture(scope="module")
def _server() -> Iterator[ManyServer]:
    with running_models(SIZES, budget=10, own={"small": {"max_queue": 1}}, max_queue_time_s=20.0) as server:
        yield server


@pytest.fixture
def server(_server: ManyServer) -> Iterator[ManyServer]:
    """``small`` and ``large`` are loaded, and ``small`` was used last."""
    if _server.states()["third"] != "unloaded":
        _server.admin("third", "unload")
    for name in ("large", "small"):
        assert _server.admin(name).status_code == 200
        assert _server.ask(name).status_code == 200
    _server.running.wait_idle()
    _server.running.wait_for(lambda: not any(one["requests"] for one in _server.statuses().values()))
    yield _server
    for model in _server.models.values():
        model.gate.open.set()


def hold(server: ManyServer, name: str, pool: concurrent.futures.ThreadPoolExecutor) -> concurrent.futures.Future[int]:
    """A request that is being answered by a model whose engine stands still."""
    model = server.models[name]
    model.gate.open.clear()
    model.gate.reached.clear()
    asked = pool.submit(lambda: server.ask(name).status_code)
    assert model.gate.reached.wait(20)
    return asked


def test_a_request_names_its_model(server: ManyServer) -> None:
    with server.running.openai as client:
        assert [model.id for model in client.models.list()] == [
            "small", "small/alias", "large", "large/alias", "third", "third/alias",
        ]  # fmt: skip
        assert client.models.retrieve("third/alias").to_dict()["root"] == "third"
        before = len(server.models["large"].sessions[-1].calls)
        for name in ("small", "small/alias", "large"):
            answer = client.chat.completions.create(model=name, messages=[{"role": "user", "content": name}])
            assert (answer.model, answer.choices[0].message.content) == (name, name)
        assert len(server.models["large"].sessions[-1].calls) > before
        with pytest.raises(
            openai.NotFoundError, match=r"`none` does not exist\. This server has small, small/alias, la"
        ):
            client.chat.completions.create(model="none", messages=[])
    with pytest.raises(openai.NotFoundError), server.running.openai as client:
        client.models.retrieve("none")
    assert server.running.chat("x")["model"] == "small"  # the first answers what names none
    assert server.running.post({"model": 5, "messages": []}).json()["error"]["param"] == "model"


def test_every_endpoint_finds_the_model_that_a_body_names(server: ManyServer) -> None:
    turns = [{"role": "user", "content": "hello"}]
    bodies: dict[str, dict[str, Any]] = {
        "/v1/completions": {"prompt": "hello", "max_tokens": 3},
        "/v1/responses": {"input": "hello"},
        "/v1/messages": {"messages": turns, "max_tokens": 9},
    }
    for path, body in bodies.items():
        answer = server.running.post({"model": "large", **body}, path)
        assert (answer.status_code, answer.json()["model"]) == (200, "large"), path
    stream = server.ask("large/alias", "abc", stream=True)
    assert content_of(chunks_of(stream.content)) == "abc"
    # What needs no engine wakes none.
    texts: dict[str, dict[str, Any]] = {
        "/tokenize": {"prompt": "hello"},
        "/detokenize": {"tokens": [104]},
        "/v1/chat/completions/render": {"messages": turns},
        "/v1/messages/count_tokens": {"messages": turns},
    }
    for path, body in texts.items():
        assert server.running.post({"model": "third", **body}, path).status_code == 200
        assert server.running.post({"model": "none", **body}, path).status_code == 404
    assert server.states() == {"small": "ready", "large": "ready", "third": "unloaded"}


def test_an_idle_model_used_longest_ago_makes_room_for_one_that_is_asked_for(server: ManyServer) -> None:
    evictions = server.statuses()["large"]["evictions"]
    assert server.ask("third", "up").json()["choices"][0]["message"]["content"] == "up"
    assert server.states() == {"small": "ready", "large": "unloaded", "third": "ready"}
    assert not server.models["large"].is_open
    assert server.statuses()["large"]["evictions"] == evictions + 1
    # A request that is not right loads nothing, and counts as its model's.
    refused = {"code": "400", "model_name": "large"}
    before = server.running.metric("request_refused_total", **refused)
    assert server.ask("large", temperature=9).status_code == 400
    assert server.ask("large", max_tokens=10**6).status_code == 400
    assert server.running.metric("request_refused_total", **refused) == before + 2
    assert server.states()["large"] == "unloaded"
    assert server.running.get("/v1/health/ready").json()["models"] == server.states()
    page = server.running.get("/v1/metrics").text
    for line in (
        'powertrain_model_state{model_name="large",state="unloaded"} 1.0',
        'powertrain_model_memory_bytes{device="cpu",model_name="large"} 0.0',
        'powertrain_model_memory_bytes{device="cpu",model_name="third"} 5.0',
        'powertrain_model_memory_budget_bytes{device="cpu"} 10.0',
        'num_request_max{model_name="large"} 0.0',
        'num_request_max{model_name="small"} 4.0',
        'num_request_max{model_name="third"} 4.0',
    ):
        assert line in page.splitlines()


def test_a_model_that_serves_stays_and_who_waits_for_its_memory_gets_it_afterwards(server: ManyServer) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        running = [hold(server, name, pool) for name in ("small", "large")]
        waiting = pool.submit(lambda: server.ask("third").status_code)
        server.running.wait_for(lambda: server.statuses()["third"]["waiting"] == 1)
        assert server.states() == {"small": "ready", "large": "ready", "third": "unloaded"}
        refused = server.admin("third")
        assert refused.status_code == 409
        assert "third needs 5 bytes" in refused.json()["error"]["message"]
        server.models["large"].gate.open.set()
        assert [running[1].result(), waiting.result()] == [200, 200]
        assert server.states() == {"small": "ready", "large": "unloaded", "third": "ready"}
        server.models["small"].gate.open.set()
        assert running[0].result() == 200


def test_waiting_for_a_model_has_the_limits_of_its_queue(server: ManyServer) -> None:
    server.admin("small", "unload")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        server.models["small"].gate.open.clear()
        waiting = pool.submit(lambda: server.ask("small").status_code)
        server.running.wait_for(lambda: server.statuses()["small"]["waiting"] == 1)
        crowded = server.ask("small")
        assert (crowded.status_code, crowded.json()["error"]["type"]) == (429, "RateLimitError")
        server.models["small"].gate.open.set()
        assert waiting.result() == 200


def test_whoever_waits_too_long_is_told_and_the_model_is_loaded_all_the_same() -> None:
    with running_models({"a": 3, "b": 3}, budget=9, load_models="demand", max_queue_time_s=0.01) as server:
        assert server.states() == {"a": "ready", "b": "unloaded"}
        server.models["b"].gate.open.clear()
        late = server.ask("b")
        assert (late.status_code, late.headers["retry-after"]) == (503, "2")
        assert "`b` is not loaded yet" in late.json()["error"]["message"]
        server.models["b"].gate.open.set()
        server.running.wait_for(lambda: server.states()["b"] == "ready")
        # Both wait for room that a third would need no longer: nobody was evicted for nothing.
        assert server.states()["a"] == "ready"


def test_the_operator_loads_and_unloads_with_a_key_that_opens_nothing_else(server: ManyServer) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Bearer not-used"}):
        assert server.admin(headers=headers).status_code == 401
        assert server.admin("large", "unload", headers=headers).status_code == 401
    assert server.admin("small/alias", "unload").json()["state"] == "unloaded"
    assert server.admin("small", "unload").status_code == 200
    assert not server.models["small"].is_open
    loaded = server.admin("small").json()
    assert (loaded["state"], loaded["num_slots"], loaded["max_queue"]) == ("ready", 4, 1)
    assert loaded["memory"] == {"device": "cpu", "fixed_bytes": 1, "kv_cache_bytes": 2}
    assert server.admin().json()["memory"] == [{"device": "cpu", "budget_bytes": 10, "used_bytes": 8}]
    assert server.admin("none").status_code == 404
    assert server.running.http.post("/v1/admin/models/small/other", headers=ADMIN).status_code == 404
    assert server.running.http.post("/v1/admin/models/load", headers=ADMIN).status_code == 404
    assert server.running.get("/v1//admin/models", headers={}).status_code in {401, 404}


def test_unloading_lets_running_answers_end(server: ManyServer) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        running = hold(server, "large", pool)
        unloading = pool.submit(lambda: server.admin("large", "unload").json()["state"])
        server.running.wait_for(lambda: server.states()["large"] == "unloading")
        late = pool.submit(lambda: server.ask("large").status_code)
        server.running.wait_for(lambda: server.statuses()["large"]["waiting"] == 1)
        server.models["large"].gate.open.set()
        assert (running.result(), unloading.result(), late.result()) == (200, "unloaded", 200)


def test_an_engine_that_dies_leaves_the_others_serving_and_its_operator_loads_it_again(server: ManyServer) -> None:
    def lose(_call: Call) -> None:
        raise DeviceLost("broken at /secret/path")

    server.models["large"].sessions[-1].before_call = lose
    assert server.ask("large").status_code in {500, 503}
    server.running.wait_for(lambda: server.states()["large"] == "failed")
    reason = server.statuses()["large"]["reason"]
    assert reason == "DeviceLost: broken at path"
    refused = server.ask("large")
    assert (refused.status_code, refused.headers["x-should-retry"]) == (503, "false")
    assert "broken" not in refused.text
    assert server.ask("large", temperature=9).status_code == 503  # nothing else is worth telling
    assert server.ask("small").status_code == 200
    for probe in ("live", "ready"):
        assert server.running.get(f"/v1/health/{probe}").status_code == 200
    assert server.admin("large").json()["state"] == "ready"
    assert server.ask("large").status_code == 200


def test_a_model_that_cannot_be_loaded_leaves_the_others_serving() -> None:
    sizes = {"broken": 1, "a": 3, "b": 3, "huge": 99}
    errors = {"a": "no weights in /srv/models/a/graph.onnx"}
    with running_models(
        sizes, budget=9, load_errors=errors, broken={"broken": "digest of x/y/z.bin is wrong"}
    ) as server:
        assert server.states() == {"broken": "failed", "a": "failed", "b": "ready", "huge": "failed"}
        statuses = server.statuses()
        assert statuses["a"]["reason"] == "RuntimeError: no weights in graph.onnx"
        assert statuses["broken"]["reason"] == "digest of z.bin is wrong"
        assert "needs 99 bytes" in statuses["huge"]["reason"]
        assert server.ask("b").status_code == 200
        for name in ("broken", "a", "huge"):
            assert server.ask(name).status_code == 503
            refused = server.admin(name)
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, 409)
            assert "/srv" not in refused.text
        assert server.running.post({"messages": [{"role": "user", "content": "x"}]}).status_code == 503
        assert [card["id"] for card in server.running.get("/v1/models").json()["data"]][::2] == ["a", "b", "huge"]
        server.models["a"].load_error = None
        assert server.admin("a").json()["failures"] == 2
        assert server.ask("a").status_code == 200


def test_a_server_none_of_whose_models_can_be_loaded_ends() -> None:
    with running_models({"a": 3, "b": 3}, budget=9, load_errors={"a": "x", "b": "y"}, wait=False) as server:
        server.running.wait_for(lambda: server.running.server.should_exit)
        assert server.registry.failure == "a: RuntimeError: x; b: RuntimeError: y"


def test_models_left_to_their_operator_are_loaded_by_no_request_and_a_drain_is_for_all() -> None:
    with running_models({"a": 3, "b": 3}, budget=9, api_key=("team=0123456789",), load_models="admin") as server:
        team = {"authorization": "Bearer 0123456789"}
        server.running.http.headers.update(team)
        refused = server.ask("b")
        assert (refused.status_code, refused.json()["error"]["message"]) == (
            503,
            "The model `b` is unloaded until its operator loads it.",
        )
        assert server.admin(headers=team).status_code == 401  # whoever may ask the model may not load others
        assert server.running.post({}, headers=ADMIN).status_code == 401
        assert "models" not in server.running.get("/v1/health/ready").json()  # names are for who has a key
        assert server.admin("b").status_code == 200
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            running = [hold(server, name, pool) for name in ("a", "b")]
            server.running.server.handle_exit(15, None)
            server.running.wait_for(lambda: server.running.get("/v1/health/ready").status_code == 503)
            assert [server.ask(name).status_code for name in ("a", "b")] == [503, 503]
            server.registry.models[1].stage = ModelState.UNLOADED
            assert server.admin("b").status_code == 503  # an engine that begins now is ended by nobody
            server.registry.models[1].stage = ModelState.READY
            engines = [model.service.engine for model in server.registry.models]
            assert [engine.state for engine in engines] == [EngineState.DRAINING] * 2
            for model in server.models.values():
                model.gate.open.set()
            assert [one.result() for one in running] == [200, 200]


def test_an_engine_that_cannot_be_ended_keeps_its_memory() -> None:
    """A hung thread is nobody's to end: what it holds stays counted, and loading it again waits for a restart."""

    class Hung:
        failure, state, has_ended = "no progress", EngineState.DEAD, False

        async def drain(self, _timeout_s: float) -> None:
            """Nothing lives."""

        async def close(self) -> None:
            """It does not end."""

    service: Any = SimpleNamespace(engine=Hung(), model=SimpleNamespace(names=("a",)))
    model = KnownModel(service, need=MemoryNeed(cache_bytes=5), new_engine=pytest.fail)
    model.stage = ModelState.READY
    other: Any = SimpleNamespace(engine=Hung(), model=SimpleNamespace(names=("b",)))
    registry = ModelRegistry([model, KnownModel(other, need=MemoryNeed(cache_bytes=6))], {"cpu": 10})
    assert model.has_died

    async def load() -> None:
        with pytest.raises(ConflictError, match="`a` cannot be loaded before a restart: its engine hangs"):
            await registry.load_now(model)
        with pytest.raises(ConflictError, match="hold too much of it: a 5 bytes"):
            await registry.load_now(registry.models[1])

    asyncio.run(load())
    assert model.reading().memory_bytes == 5


@pytest.mark.parametrize("key", [None, ApiKey("team", b""), ApiKey("admin-role", b"", Role.ADMIN)])
def test_handlers_look_at_the_key_again(key: ApiKey | None) -> None:
    request: Any = SimpleNamespace(scope={"state": {API_KEY_KEY: key}})
    with pytest.raises(ForbiddenError):
        operators_only(request, SimpleNamespace())  # type: ignore[arg-type]
