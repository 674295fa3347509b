"""The playground's page and files: what they are made of, what the page may do, who may load what, and who gets it."""

from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from api.pages.playground import PLAYGROUND_POLICY, playground_files, playground_page
from runtime.package.generation_config import GenerationConfig
from tests.api.scripted_server import NAMES, RunningServer, running_server
from tests.paths import ROOT

PAGES = ROOT / "api/pages"
LIBRARIES = PAGES / "libraries"
OURS = PAGES / "playground"
BROWSER = {"accept": "text/html"}


def test_what_is_not_ours_is_what_its_record_says() -> None:
    record = tomllib.loads((LIBRARIES / "VENDORED.toml").read_text(encoding="utf-8"))
    assert set(record) == {path.name for path in LIBRARIES.iterdir() if path.is_dir()}
    for folder, entry in record.items():
        assert set(entry["sha256"]) == {path.name for path in (LIBRARIES / folder).iterdir()}
        assert "LICENSE.txt" in entry["sha256"]
        for name, digest in entry["sha256"].items():
            assert hashlib.sha256((LIBRARIES / folder / name).read_bytes()).hexdigest() == digest, name


def test_what_is_ours_names_no_other_host_and_makes_no_code_of_text() -> None:
    for path in OURS.iterdir():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(https?:)?//[a-z0-9-]+\.[a-z]|@import|url\(", text), path
        assert not re.search(
            r"\beval\(|new Function|innerHTML|insertAdjacentHTML|document\.cookie|localStorage", text
        ), path
        assert len(text.splitlines()) <= 300
    html = (OURS / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?! (defer|type=\"module\") src=)|<style|\son[a-z]+=|\sstyle=", html)


def test_every_module_that_is_named_is_there() -> None:
    named = set(re.findall(r'"\{base\}playground/([^"]+)"', (OURS / "index.html").read_text(encoding="utf-8")))
    for path in OURS.glob("*.js"):
        found = re.findall(r"from '\./([^']+)'", path.read_text(encoding="utf-8"))
        named |= set(found)
        assert set(found) <= playground_files(), path
    assert named <= playground_files()
    unused = {name for name in playground_files() if not name.startswith("libraries/")} - named
    assert not unused
    licences = {name for name in playground_files() if name.endswith(".txt")}
    assert len(licences) == len(list(LIBRARIES.glob("*/")))


def test_a_browser_gets_a_page_that_may_use_this_server_alone(server: RunningServer) -> None:
    page = server.get("/", headers=BROWSER)
    assert (page.headers["content-type"], page.headers["vary"]) == ("text/html; charset=utf-8", "accept")
    policy = dict(rule.strip().split(" ", 1) for rule in page.headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "dompurify",
    }
    assert "set-cookie" not in page.headers
    assert NAMES[0] not in page.text
    head = server.http.head("/", headers=BROWSER)
    assert (head.status_code, head.content) == (200, b"")


def test_the_files_come_with_their_types_and_nothing_else_lies_there(server: RunningServer) -> None:
    for name, kind in (
        ("app.js", "text/javascript"),
        ("page.css", "text/css"),
        ("libraries/dompurify/purify.es.mjs", "text/javascript"),
        ("libraries/marked/LICENSE.txt", "text/plain"),
    ):
        answer = server.get(f"/playground/{name}")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'; base-uri" in answer.headers["content-security-policy"]
        place = LIBRARIES.parent / name if name.startswith("libraries/") else OURS / name
        assert answer.content == place.read_bytes()
    for name in (
        "index.html",
        "libraries/VENDORED.toml",
        "libraries/README.md",
        "../page.py",
        "..%2fpage.py",
        "x" * 1000,
    ):
        answer = server.get(f"/playground/{name}")
        assert answer.status_code == 404
        assert len(answer.content) < 400


def test_the_page_learns_the_defaults_that_count(server: RunningServer) -> None:
    about = server.get("/playground/about").json()
    (model,) = about["models"]
    assert model == {
        "name": NAMES[0],
        "max_model_len": 256,
        "defaults": {
            "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "max_tokens": None,
        },
        "calls_tools": True,
        "reasons": False,
    }  # fmt: skip
    assert (about["docs"], about["max_stop_strings"]) == (True, 16)


def test_what_needs_a_key_and_what_does_not() -> None:
    given = GenerationConfig(
        temperature=0.2, top_p=0.9, top_k=40, min_p=0.05, repetition_penalty=1.1, max_new_tokens=77
    )
    options: dict[str, Any] = {"served_model_name": ("my-secret-model",), "tool_call_parser": "none"}
    with running_server(defaults=given, api_key=("a-secret-key",), root_path="/models/llm", **options) as server:
        for path in ("/", *(f"/playground/{name}" for name in playground_files())):
            answer = server.get(path, headers=BROWSER)
            assert answer.status_code == 200, path
            assert b"secret" not in answer.content.replace(b"client-secret", b"")
        assert server.get("/playground/about").status_code == 401
        assert server.http.post("/playground/app.js").status_code == 401
        (model,) = server.get("/playground/about", headers={"authorization": "Bearer a-secret-key"}).json()["models"]
        assert (model["name"], model["calls_tools"]) == ("my-secret-model", False)
        assert model["defaults"] == {
            "temperature": 0.2, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1, "max_tokens": 77,
        }  # fmt: skip
        # Below a proxy's prefix that somebody typed without its last slash, links lead to the server too.
        assert 'src="llm/playground/app.js"' in server.get("/models/llm", headers=BROWSER).text
        assert 'src="playground/app.js"' in server.get("/models/llm/", headers=BROWSER).text
        assert server.get("/models/llm/playground/app.js").status_code == 200


@pytest.mark.parametrize("base", ["", "llm/"])
def test_below_a_proxys_prefix_links_lead_to_the_server(base: str) -> None:
    page = playground_page(base).content.decode()
    links = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert {link for link in links if not link.startswith("data:")} >= {f"{base}playground/app.js", f"{base}v1/models"}
    assert "{base}" not in page
    assert "unsafe" not in PLAYGROUND_POLICY


def test_the_browser_tests_tool_is_what_its_record_says() -> None:
    folder = ROOT / "tests/browser/axe"
    record = tomllib.loads(Path(folder / "VENDORED.toml").read_text(encoding="utf-8"))
    assert set(record["sha256"]) == {path.name for path in folder.iterdir()} - {"VENDORED.toml"}
    for name, digest in record["sha256"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
