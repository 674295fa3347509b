"""The keys that load models: apart from all others, off without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.clients.client import Clients
from api.controllers.openapi import openapi_document
from api.controllers.openapi_schemas import Interface
from api.edge.keys import admin_key_ring, key_ring
from api.errors import SettingsError
from api.process.reloading import Reloading, has_files
from api.server_settings import Settings
from tests.api.scripted_server import NAMES, RunningServer, running_server


def names(**settings: object) -> tuple[str, ...]:
    chosen = Settings(**settings)  # type: ignore[arg-type]
    return admin_key_ring(chosen, key_ring(chosen)).names


def test_admin_keys_have_names_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "admin"
    file.write_text("# who may load\nboss=a-secret-of-hers\n")
    assert names() == ()
    assert names(admin_key=("plain",), admin_key_file=str(file)) == ("admin-1", "boss")
    assert all(key.operates for key in admin_key_ring(Settings(admin_key=("plain",)), key_ring(Settings())).keys)
    assert not any(key.operates for key in key_ring(Settings(api_key=("plain",))).keys)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"admin_key": ("one", "one")}, "admin_key: two keys have the same secret"),
        ({"admin_key": ("ops=0123456789",), "api_key": ("0123456789",)}, "API key key-1 has the same secret"),
        ({"admin_key": (" ",)}, "admin_key: key 1 is empty"),
        ({"admin_key_file": "/no/such/file"}, "admin_key_file: /no/such/file is not readable"),
    ],
)
def test_an_unusable_admin_key_ends_the_start(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        names(**settings)


def test_the_file_is_read_again_whole_or_not_at_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "admin"
    file.write_text("old=secret-of-old\n")
    settings = Settings(admin_key_file=str(file))
    assert has_files(settings)
    reloading = Reloading(settings, Clients())
    ring = reloading.admin_keys
    file.write_text("new=secret-of-new\n")
    reloading.reload()
    assert ring.names == ("new",)
    file.write_text("")
    reloading.reload()
    assert ring.names == ("new",)
    assert "the keys stay as they were" in caplog.text


def test_without_an_admin_key_there_is_nothing_to_open(server: RunningServer) -> None:
    for headers in ({}, {"authorization": "Bearer x"}):
        assert server.get("/v1/admin/models", headers=headers).status_code == 404
    assert "/v1/admin/models" not in openapi_document()["paths"]


def test_with_one_the_description_has_its_paths_behind_it() -> None:
    document = openapi_document(Interface(has_admin_key=True))
    operations = [one for path, methods in document["paths"].items() if "/admin/" in path for one in methods.values()]
    assert len(operations) == 3
    for operation in operations:
        assert operation["security"] == [{"admin_key": []}]
        assert operation["description"]
        assert operation["responses"]["200"]["content"]["application/json"]["examples"]
    assert "admin_key" in document["components"]["securitySchemes"]
    (parameter,) = document["paths"]["/v1/admin/models/{name}/load"]["post"]["parameters"]
    assert parameter["name"] == "name"


def test_a_server_of_one_model_shows_it_and_keeps_it() -> None:
    with running_server(admin_key=("the-admins-key",)) as server:
        key = {"x-api-key": "the-admins-key"}
        refused = server.http.get("/v1/admin/models")
        assert (refused.status_code, "A valid admin key is required" in refused.text) == (401, True)
        (model,) = server.get("/v1/admin/models", headers=key).json()["data"]
        assert (model["id"], model["aliases"], model["state"]) == (NAMES[0], [NAMES[1]], "ready")
        refused = server.http.post(f"/v1/admin/models/{NAMES[0]}/unload", headers=key)
        assert (refused.status_code, refused.json()["error"]["type"]) == (409, "ConflictError")
        assert server.chat("x")["model"] == NAMES[0]  # an admin key asks nobody for an API key
        assert "powertrain_model_state" not in server.get("/v1/metrics").text
        assert "models" not in server.get("/v1/health/ready").json()
        described = server.get("/openapi.json").json()["paths"]
        assert {path for path in described if path.startswith("/v1/admin")} == {
            "/v1/admin/models", "/v1/admin/models/{name}/load", "/v1/admin/models/{name}/unload",
        }  # fmt: skip
