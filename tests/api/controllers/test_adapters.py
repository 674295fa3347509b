"""Adapters as vLLM's clients use them: listed with a parent, asked for by name, loaded and taken out at run time."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from api.adapters import Adapters, adapter_folder, adapters_from_settings
from api.errors import NotFoundError, SettingsError
from api.model_settings import settings_of_models
from api.process.trusted import adapter_check
from api.server_settings import Settings
from api.settings_rules import check_settings
from export.provenance.signing import sign_adapter
from runtime.errors import AdapterError, TrustError
from runtime.package.adapter_room import AdapterPart, AdapterProjection, AdapterRoom
from runtime.trust.keys import new_key
from runtime.trust.trust_file import trust_entry
from tests.adapter_folders import Pair, write_adapter
from tests.adapting_session import AdaptingSession
from tests.api.many_models import ManyServer, running_models
from tests.api.scripted_server import NAMES, RunningServer, running_server, user

ROOM = AdapterRoom(
    rank=2,
    num_layers=1,
    projections=(AdapterProjection(name="o", inputs=3, outputs=4, parts=(AdapterPart(role="o", start=0, outputs=4),)),),
)


def pairs(seed: int = 1, rank: int = 2) -> dict[str, Pair]:
    random = np.random.default_rng(seed)
    return {"model.layers.0.self_attn.o_proj": (random.standard_normal((rank, 3), np.float32),
                                                random.standard_normal((4, rank), np.float32))}  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of adapters, one of which does not fit, and one beside it."""
    root = tmp_path_factory.mktemp("adapters")
    write_adapter(root / "source/math", pairs(1))
    write_adapter(root / "beside", pairs(2))
    write_adapter(root / "source/group/large", pairs(3, rank=3))
    (root / "source/notes").mkdir()
    with (write_adapter(root / "source/group/vast", pairs(4)) / "adapter_model.safetensors").open("r+b") as file:
        file.truncate(2**40)  # a hole: it takes no room on the disk
    (root / "source/loop").symlink_to("loop")
    return root / "source"


@contextlib.contextmanager
def adapting_server(source: Path, **changes: Any) -> Iterator[RunningServer]:
    settings = Settings(lora_source=str(source), lora_modules=(f"org/code={source / '../beside'}",), max_loras=3)
    adapters = adapters_from_settings(settings, ROOM, NAMES)
    values: dict[str, Any] = {"lora_source": str(source), "allow_runtime_lora_updating": True} | changes
    with running_server(adapters=adapters, session_type=AdaptingSession, **values) as server:
        yield server


@pytest.fixture(scope="module")
def server(source: Path) -> Iterator[RunningServer]:
    with adapting_server(source, api_key=("boss=secret-1",), keys_file=str(keys_of(source))) as running:
        running.http.headers["authorization"] = "Bearer secret-1"
        yield running


def keys_of(source: Path) -> Path:
    path = source.parent / "keys.toml"
    digest = hashlib.sha256(b"secret-2").hexdigest()
    path.write_text(f'[[key]]\nname = "team"\nsha256 = "{digest}"\nrole = "client"\n')
    return path


def said(server: RunningServer, model: str | None, text: str = "hello") -> str:
    body = server.chat(text, **({} if model is None else {"model": model}))
    assert body["model"] == (model or NAMES[0])
    return str(body["choices"][0]["message"]["content"])


def test_adapters_are_listed_with_their_parent(server: RunningServer) -> None:
    cards = server.get("/v1/models").json()["data"]
    assert [(card["id"], card["root"], card["parent"]) for card in cards] == [
        (NAMES[0], NAMES[0], None), (NAMES[1], NAMES[0], None),
        ("org/code", NAMES[0], NAMES[0]), ("math", NAMES[0], NAMES[0]),
    ]  # fmt: skip
    assert server.get("/v1/models/org/code").json() == cards[2]
    assert cards[2]["created"] > cards[0]["created"]


def test_a_request_names_the_adapter_that_answers(server: RunningServer) -> None:
    assert [said(server, name) for name in (None, "math", "alias-name", "org/code")] == [
        "hello", "HELLO", "hello", "HELLO"]  # fmt: skip
    with openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="secret-1", max_retries=0) as client:
        create: Any = client.chat.completions.create
        chunks = list(create(model="math", messages=[user("hello")], stream=True))
        assert {chunk.model for chunk in chunks} == {"math"}
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "HELLO"
        completion = client.completions.create(model="math", prompt="hello\n", max_tokens=5)
        assert completion.choices[0].text == "HELLO"


def test_one_may_be_loaded_and_taken_out_while_others_run(server: RunningServer) -> None:
    body = {"lora_name": "more", "lora_path": "math"}
    answer = server.post(body, "/v1/load_lora_adapter")
    assert (answer.status_code, answer.text) == (200, "Success: LoRA adapter 'more' added successfully.")
    assert said(server, "more") == "HELLO"
    assert "already been loaded" in refusal(server, body)
    assert "3 adapters are loaded, which is max_loras" in refusal(server, {**body, "lora_name": "fourth"})
    answer = server.post({"lora_name": "more"}, "/v1/unload_lora_adapter")
    assert (answer.status_code, answer.text) == (200, "Success: LoRA adapter 'more' removed successfully.")
    for path, again in (("/v1/unload_lora_adapter", {"lora_name": "more"}), ("/v1/chat/completions", None)):
        missing = server.post(again or {"model": "more", "messages": [user("hello")]}, path)
        assert missing.status_code == 404
    absolute = server.service.settings.lora_source or ""
    assert server.post({**body, "lora_path": absolute + "/math"}, "/v1/load_lora_adapter").status_code == 200
    assert server.post({"lora_name": "more"}, "/v1/unload_lora_adapter").status_code == 200


def refusal(server: RunningServer, body: Mapping[str, object]) -> str:
    """The message of a 400, which tells nothing of this machine's folders."""
    answer = server.post(body, "/v1/load_lora_adapter")
    assert answer.status_code == 400, answer.text
    message = str(answer.json()["error"]["message"])
    assert str(Path(server.service.settings.lora_source or "").parent) not in message
    return message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"lora_path": "../beside"}, "lora_path: it does not lie below the folder"),
        ({"lora_path": "/etc"}, "lora_path: it does not lie below the folder"),
        ({"lora_path": "."}, "lora_path: it does not lie below the folder"),
        ({"lora_path": "group/vast"}, "new: adapter_model.safetensors has 1,099,511,627,776 bytes"),
        ({"lora_path": "loop"}, "lora_path: this is no path"),
        ({"lora_path": "a\0b"}, "lora_path: this is no path"),
        ({"lora_path": "nowhere"}, "new: there is no such folder"),
        ({"lora_path": "n" * 300}, "new: there is no such folder"),
        ({"lora_path": "notes"}, "new: adapter_config.json is missing"),
        ({"lora_path": "group/large"}, "new: rank 3 is above the 2"),
        ({"lora_path": "math", "lora_name": NAMES[1]}, "the name 'alias-name' is the model's own"),
        ({"lora_path": "math", "lora_name": "a\nb"}, "printable characters"),
        ({"lora_path": "math", "load_inplace": True}, "load_inplace: unload the adapter first"),
        ({}, "lora_path is required"),
    ],
)
def test_what_cannot_be_loaded_is_a_400_that_says_why(
    server: RunningServer, body: dict[str, object], message: str
) -> None:
    assert message in refusal(server, {"lora_name": "new"} | body)
    assert "new" not in server.service.adapters.loaded


def test_only_an_admin_may(server: RunningServer) -> None:
    for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
        body = {"lora_name": "math", "lora_path": "math"}
        assert server.post(body, path, headers={"authorization": "Bearer secret-2"}).status_code == 403
        assert server.post(body, path, headers={"authorization": "Bearer wrong"}).status_code == 401
    assert "math" in server.service.adapters.loaded


def test_it_is_off_unless_the_operator_allows_it(source: Path) -> None:
    with adapting_server(source, allow_runtime_lora_updating=False) as server:
        body = {"lora_name": "more", "lora_path": "math"}
        assert server.post(body, "/v1/load_lora_adapter").status_code == 404
        assert said(server, "math") == "HELLO"


def test_a_request_keeps_the_adapter_that_is_taken_out_and_one_that_came_too_late_is_told(source: Path) -> None:
    with adapting_server(source, gate_open=False, wait_for="/v1/health/live") as server:
        server.gate.open.set()
        server.wait_for(lambda: server.get("/v1/health/ready").status_code == 200)
        with openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0) as client:
            create: Any = client.chat.completions.create
            stream = create(model="math", messages=[user("*abc")], stream=True, max_tokens=60)
            first = next(iter(stream))
            assert server.post({"lora_name": "math"}, "/v1/unload_lora_adapter").status_code == 200
            text = "".join(chunk.choices[0].delta.content or "" for chunk in [first, *stream] if chunk.choices)
            assert text == "ABC" * 20
        with pytest.raises(NotFoundError, match="`math` does not exist"):
            server.service.adapter_of("math")


@pytest.fixture(scope="module")
def several(source: Path) -> Iterator[ManyServer]:
    """``one`` and ``two`` take adapters from a folder; ``plain`` has none, ``gone`` cannot be served."""
    own = {name: {"lora_source": str(source)} for name in ("one", "two")}
    names = {name: (name, f"{name}/alias") for name in ("one", "two", "plain")}
    adapters = {name: Adapters(ROOM, names[name], 3) for name in own}
    sizes = {"one": 1, "two": 1, "plain": 1, "gone": 1}
    with running_models(
        sizes, budget=9, own=own, broken={"gone": "digest"}, adapters=adapters, session_type=AdaptingSession,
        load_models="demand", allow_runtime_lora_updating=True,
    ) as server:  # fmt: skip
        yield server


def load(server: ManyServer, name: str, **fields: object) -> tuple[int, str]:
    answer = server.running.post({"lora_name": name, "lora_path": "math", **fields}, "/v1/load_lora_adapter")
    return answer.status_code, answer.text if answer.status_code == 200 else answer.json()["error"]["message"]


def test_of_several_models_a_request_says_which_an_adapter_is_for(several: ManyServer) -> None:
    assert load(several, "math") == (400, "base_model_name: several models take adapters, say which: one, two")
    assert load(several, "math", base_model_name="two/alias")[0] == 200
    cards = {card["id"]: card["parent"] for card in several.running.get("/v1/models").json()["data"]}
    assert cards["math"] == "two"
    for name, said in (("math", "HELLO"), ("two", "hello"), ("one", "hello")):
        assert several.ask(name, "hello").json()["choices"][0]["message"]["content"] == said
    unload, body = "/v1/unload_lora_adapter", {"lora_name": "math"}
    assert several.running.post({**body, "base_model_name": "one"}, unload).status_code == 404
    assert several.running.post(body, unload).status_code == 200
    assert several.running.post(body, unload).status_code == 404
    assert several.ask("math").status_code == 404


@pytest.mark.parametrize(
    ("name", "base", "status", "message"),
    [
        ("plain", "one", 400, "lora_name: 'plain' is the name of a model of this server"),
        ("two/alias", "one", 400, "lora_name: 'two/alias' is the name of a model"),
        ("gone", "one", 400, "lora_name: 'gone' is the name of a model"),
        ("held", "one", 400, "lora_name: 'held' is an adapter of `two`; give this one another name"),
        ("held", "two", 400, "The lora adapter 'held' has already been loaded."),
        ("new", "held", 404, "base_model_name: there is no model `held` that an adapter can be for; there are one, tw"),
        ("new", "plain", 403, "This server loads adapters from no folder"),
        ("new", "gone", 503, "The model `gone` is not available"),
    ],
)
def test_a_name_or_a_base_that_cannot_be_is_refused(
    several: ManyServer, name: str, base: str, status: int, message: str
) -> None:
    load(several, "held", base_model_name="two")
    found = load(several, name, base_model_name=base)
    assert (found[0], found[1][: len(message)]) == (status, message)
    assert [list(one.adapters.loaded) for one in several.registry.services] == [[], ["held"], []]


def test_two_loads_at_once_give_a_name_to_one_of_them(several: ManyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second comes while the first, for another model, reads its files."""
    come, reading, go_on = list[str](), threading.Event(), threading.Event()
    first = several.registry.named("one").service.adapters
    add = first.add

    def folder_of(source: str | None, path: str) -> Path:
        come.append(path)
        return adapter_folder(source, path)

    def add_slowly(name: str, folder: Path) -> None:
        reading.set()
        assert go_on.wait(30)
        add(name, folder)

    monkeypatch.setattr("api.controllers.adapter_loads.adapter_folder", folder_of)
    monkeypatch.setattr(first, "add", add_slowly)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(load, several, "both", base_model_name="one")]
        assert reading.wait(30)
        asked.append(pool.submit(load, several, "both", base_model_name="two"))
        several.running.wait_for(lambda: len(come) == 2)
        go_on.set()
        assert [one.result()[0] for one in asked] == [200, 400]
    assert several.running.post({"lora_name": "both"}, "/v1/unload_lora_adapter").status_code == 200


def test_one_model_with_a_folder_needs_no_name(source: Path) -> None:
    settings = Settings(model="a", more_models=("b",), allow_runtime_lora_updating=True)
    check_settings(settings)
    with pytest.raises(SettingsError, match=r"no model has a lora_source to load from; say --model-setting MODEL:lora"):
        settings_of_models(settings, [{"a"}, {"b"}])
    given = dataclasses.replace(settings, model_setting=(f"b:lora_source={source}", "a:num_slots=2"))
    assert [one.lora_source for one in settings_of_models(given, [{"a"}, {"b"}])] == [None, str(source)]
    own = {"b": {"lora_source": str(source)}}
    with running_models(
        {"a": 1, "b": 1}, budget=9, own=own, adapters={"b": Adapters(ROOM, ("b",), 1)}, load_models="demand",
        allow_runtime_lora_updating=True,
    ) as server:  # fmt: skip
        assert load(server, "math")[0] == 200
        assert list(server.registry.named("b").service.adapters.loaded) == ["math"]


def test_where_signatures_are_required_an_adapter_needs_one(source: Path, tmp_path: Path) -> None:
    key = new_key(tmp_path / "key.pem")
    (tmp_path / "trust.toml").write_text(trust_entry("release", key.public))
    signed = write_adapter(tmp_path / "source/signed", pairs(1))
    sign_adapter(signed, key)
    settings = Settings(require_signature=True, trust_file=str(tmp_path / "trust.toml"), max_loras=9)
    assert adapter_check(Settings()) is None
    at_start = dataclasses.replace(settings, lora_modules=(f"x={signed}",))
    adapters = adapters_from_settings(at_start, ROOM, NAMES, None, adapter_check(settings))
    assert list(adapters.loaded) == ["x"]
    with pytest.raises(TrustError, match="math is not signed; sign it with 'powertrain sign --adapter FOLDER"):
        adapters_from_settings(Settings(lora_source=str(source)), ROOM, NAMES, None, adapter_check(settings))
    write_adapter(tmp_path / "source/bare", pairs(2))
    values: dict[str, Any] = {"lora_source": str(tmp_path / "source"), "allow_runtime_lora_updating": True}
    with running_server(adapters=adapters, session_type=AdaptingSession, **values) as server:
        assert "bare is not signed" in refusal(server, {"lora_name": "y", "lora_path": "bare"})
        assert server.post({"lora_name": "y", "lora_path": "signed"}, "/v1/load_lora_adapter").status_code == 200
        write_adapter(signed, pairs(3))  # other weights below the same signature
        said = refusal(server, {"lora_name": "z", "lora_path": "signed"})
        assert "adapter_model.safetensors is not the one that 'release' signed" in said


def test_a_start_with_what_cannot_be_served_ends_with_one_line(source: Path) -> None:
    with pytest.raises(AdapterError, match="no room for adapters: export it with --lora-rank, or with --adapter"):
        adapters_from_settings(Settings(lora_source=str(source)), None, NAMES)
    with pytest.raises(SettingsError, match="'math' is not NAME=FOLDER"):
        adapters_from_settings(Settings(lora_modules=("math",)), ROOM, NAMES)
    with pytest.raises(SettingsError, match="there is no folder nowhere for math"):
        adapters_from_settings(Settings(lora_modules=("math=nowhere",)), ROOM, NAMES)
    with pytest.raises(SettingsError, match="there is no folder /nowhere"):
        adapters_from_settings(Settings(lora_source="/nowhere"), ROOM, NAMES)
    with pytest.raises(SettingsError, match="lora_source names no folder to load from"):
        check_settings(Settings(allow_runtime_lora_updating=True))
    with pytest.raises(AdapterError, match="0 adapters are loaded"):
        Adapters(ROOM).add("math", source / "math")
