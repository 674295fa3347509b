"""The page at / without a playground: it leads on, a client gets the same as JSON, neither learns what a key opens."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from collections.abc import Iterator
from html import unescape
from typing import Any

import pytest

from api.controllers.openapi import openapi_document
from api.controllers.openapi_schemas import Interface
from api.controllers.welcome import prefers_html
from api.pages.welcome import Welcome, welcome_page
from tests.api.scripted_server import NAMES, RunningServer, running_server

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"}


@pytest.mark.parametrize(
    ("accept", "is_html"),
    [
        (BROWSER["accept"], True),
        ("text/html", True),
        ("TEXT/HTML; charset=utf-8", True),
        ("application/json;q=0.5, text/html;q=0.9", True),
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("application/json, text/html;q=0.9", False),
        ("text/html;q=0", False),
        ("text/html;q=x", False),
        ("text/htmlx", False),
    ],
)
def test_who_gets_the_page(accept: str, is_html: bool) -> None:
    assert prefers_html(accept) == is_html


def test_a_client_gets_json(server: RunningServer) -> None:
    answer = server.get("/")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["vary"] == "accept"
    body = answer.json()
    assert (body["name"], body["model"]) == ("powertrain", NAMES[0])
    assert {"/docs", "/openapi.json", "/v1/models", "/v1/metrics", "/v1/health/ready"} < set(body["links"].values())
    for path in body["links"].values():
        assert server.http.options(path).status_code == 204
    head = server.http.head("/", headers=BROWSER)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == "text/html; charset=utf-8"


@pytest.fixture(scope="module")
def plain_server() -> Iterator[RunningServer]:
    with running_server(playground=False) as running:
        yield running


def test_a_browser_gets_a_page_that_leads_on(plain_server: RunningServer) -> None:
    server = plain_server
    page = server.get("/", headers=BROWSER)
    assert (page.headers["content-type"], page.headers["vary"]) == ("text/html; charset=utf-8", "accept")
    assert NAMES[0] in page.text
    links = {link for link in re.findall(r'href="([^"]*)"', page.text) if not link.startswith("data:")}
    assert links == {"docs", "openapi.json", "v1/models", "v1/health/ready", "v1/metrics", "v1/license"}
    assert {server.get("/" + link).status_code for link in links} == {200}
    assert f"curl {server.base_url}/v1/chat/completions" in page.text
    (style,) = re.findall(r"<style>(.*?)</style>", page.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert page.headers["content-security-policy"] == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    assert not re.search(r"<script|\sstyle=|\son[a-z]+=|https?://(?!127\.0\.0\.1)", page.text)


def test_without_a_playground_nothing_of_it_is_there(plain_server: RunningServer) -> None:
    for path in ("/playground/app.js", "/playground/about"):
        answer = plain_server.get(path)
        assert answer.status_code == 404
        assert "playground has" not in answer.text


def test_the_command_that_it_shows_works(plain_server: RunningServer) -> None:
    server = plain_server
    page = unescape(server.get("/", headers=BROWSER).text)
    (body,) = re.findall(r"-d '(\{.*?\})'", page, re.DOTALL)
    assert server.post(body.encode()).status_code == 200


@pytest.mark.parametrize("host", ["<script>", "a b", "x';reboot;'", "$(reboot)", "é", "a`b`", "x\ny", ""])
def test_a_host_that_is_no_address_does_not_get_into_the_command(host: str) -> None:
    about = Welcome(version="1", model=None, origin=f"http://{host}", has_docs=True, needs_key=True)
    page = welcome_page(about).content.decode()
    assert not host or host not in page
    assert "curl http://localhost:8000/v1/chat/completions" in page


def test_a_name_is_text_to_browser_and_shell() -> None:
    about = Welcome(version="1", model="<b>'\"&", origin="http://[::1]:1/x", has_docs=True, needs_key=False)
    page = welcome_page(about).content.decode()
    assert "<b>" not in page
    assert "curl http://[::1]:1/x/v1/chat/completions" in page
    command = unescape(page[page.index("curl") : page.index("</code></pre>")]).replace("\\\n", "")
    assert shlex.split(command)[5] == (
        '{"model": "<b>\\"&",\n       "messages": [{"role": "user", "content": "Hello!"}]}'
    )


def test_what_is_open_beside_a_key_tells_nothing_that_the_key_opens() -> None:
    with running_server(api_key=("a-secret-key",), served_model_name=("my-secret-model",), playground=False) as server:
        for path in ("/", "/docs", "/docs/", "/docs/explorer.js", "/openapi.json"):
            for headers in ({}, BROWSER):
                answer = server.get(path, headers=headers)
                assert answer.status_code == 200
                assert "secret" not in answer.text.replace("client-secret", "")
                assert server.http.head(path, headers=headers).status_code == 200
            for method in ("POST", "OPTIONS", "PUT"):
                assert server.http.request(method, path).status_code in {401, 429}
        assert server.get("/playground/app.js").status_code in {401, 429}  # off: what is not there is not open
        assert server.get("/openapi.json").json()["security"] == [{"key": []}, {"plain_key": []}]
        page = server.get("/", headers=BROWSER).text
        links = {link for link in re.findall(r'href="([^"]*)"', page) if not link.startswith("data:")}
        assert links == {"docs", "openapi.json", "v1/health/ready"}
        assert '-H "Authorization: Bearer $API_KEY"' in unescape(page)


def test_the_operator_may_ask_for_a_key_there_too() -> None:
    key = {"authorization": "Bearer a-key"}
    allowed: dict[str, Any] = {"max_stop_strings": 3, "trust_request_chat_template": True}
    with running_server(api_key=("a-key",), docs="key", **allowed) as server:
        for path in ("/", "/docs", "/docs/explorer.js", "/openapi.json"):
            assert server.get(path).status_code == 401
            assert server.get(path, headers=key).status_code == 200
        assert server.get("/", headers=key).json()["model"] == NAMES[0]
        shown = Interface(model=NAMES[0], needs_key=True, max_stop_strings=3, trusts_chat_templates=True)
        assert server.get("/openapi.json", headers=key).json() == openapi_document(shown)


def test_the_operator_may_turn_the_documentation_off() -> None:
    with running_server(docs="off", playground=False) as server:
        for path in ("/docs", "/docs/explorer.js", "/openapi.json"):
            answer = server.get(path)
            assert answer.status_code == 404
            assert "/docs" not in answer.json()["error"]["message"]
        assert "docs" not in server.get("/").json()["links"]
        assert "docs" not in server.get("/", headers=BROWSER).text
