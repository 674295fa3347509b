"""The page of /docs: what it is made of, that it needs and may use nothing from elsewhere, and who may load it."""

from __future__ import annotations

import hashlib
import re
import tomllib

import pytest

from api.pages.explorer import FILE_NAMES
from tests.api.scripted_server import RunningServer
from tests.paths import ROOT

PAGES = ROOT / "api/pages"
RAPIDOC = PAGES / "rapidoc"


def test_what_is_not_ours_is_what_its_record_says() -> None:
    record = tomllib.loads((RAPIDOC / "VENDORED.toml").read_text(encoding="utf-8"))
    files = {path.name for path in RAPIDOC.iterdir()} - {"VENDORED.toml", "README.md"}
    assert set(record["sha256"]) == files
    for name in files:
        assert hashlib.sha256((RAPIDOC / name).read_bytes()).hexdigest() == record["sha256"][name], name
    head = (RAPIDOC / "rapidoc-min.js").read_bytes()[:400]
    assert f"RapiDoc {record['version']} ".encode() in head
    assert record["license"] == "MIT"
    assert "MIT License" in (RAPIDOC / "LICENSE.txt").read_text(encoding="utf-8")


def test_what_is_ours_names_no_other_host() -> None:
    for path in (PAGES / "files").glob("explorer.*"):
        assert not re.search(r"(https?:)?//[a-z0-9-]+\.[a-z]|@import|url\(", path.read_text(encoding="utf-8")), path
    html = (PAGES / "files/explorer.html").read_text(encoding="utf-8")
    assert 'load-fonts="false"' in html
    assert 'persist-auth="false"' in html  # a key is not written into the browser's storage
    assert not re.search(r"<script(?! type=\"module\" src=)|<style|\son[a-z]+=|\sstyle=", html)


def test_the_page_may_use_this_server_alone(server: RunningServer) -> None:
    page = server.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(rule.strip().split(" ", 1) for rule in page.headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self' 'unsafe-inline'",
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }


@pytest.mark.parametrize("path", ["/docs", "/docs/"])
def test_whatever_the_page_names_is_there(path: str, server: RunningServer) -> None:
    page = server.get(path)
    found = re.findall(r'(?:href|src|data-base)="([^"#][^"]*)"', page.text)
    linked = {str(page.url.join(link).path) for link in found if not link.startswith("data:")}
    files = {f"/docs/{name}" for name in FILE_NAMES}
    assert linked == files | {"/", "/openapi.json"}
    types = {".js": "text/javascript", ".css": "text/css", "txt": "text/plain"}
    for link in linked:
        answer = server.get(link)
        assert answer.status_code == 200
        assert answer.headers["x-content-type-options"] == "nosniff"
        if link in files:
            assert (
                answer.headers["content-type"] == f"{types[link[-3:] if link[-3:] != 'css' else '.css']}; charset=utf-8"
            )


def test_a_browser_that_has_a_file_is_not_sent_it_again(server: RunningServer) -> None:
    path = "/docs/rapidoc-min.js"
    first = server.get(path)
    assert first.content == (RAPIDOC / "rapidoc-min.js").read_bytes()
    assert first.headers["cache-control"] == "no-cache"
    for known in (first.headers["etag"], f'"other", W/{first.headers["etag"]}', "*"):
        again = server.get(path, headers={"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    assert server.get(path, headers={"if-none-match": '"other"'}).status_code == 200
    head = server.http.head(path)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(first.content)))


def test_nothing_else_lies_there(server: RunningServer) -> None:
    for name in ("VENDORED.toml", "README.md", "explorer.html", "..%2fpage.py", "%2e%2e/page.py", "x" * 1000):
        answer = server.get(f"/docs/{name}")
        assert answer.status_code == 404
        assert len(answer.content) < 400
