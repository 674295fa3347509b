"""Class M, the log as a target: whatever a client sends, one line, valid in its form, that says only what happened.

Repeats the cause of CVE-2024-0095 (Triton: forged entries in the log), and of "Trojan source" (CVE-2021-42574:
characters that turn the writing direction).
"""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.observe.logs import JsonFormatter, RareLog, TextFormatter
from tests.api.scripted_server import RunningServer
from tests.security.raw_http import CLOSE, get, talk

UNSAFE = [
    *(chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))),
    *"\u061c\u200b\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff",
]
HEAD = " info powertrain.requests request "


def _record(message: str, **fields: object) -> logging.LogRecord:
    record = logging.LogRecord("powertrain.requests", logging.INFO, __file__, 1, message, (), None)
    record.fields = fields
    return record


def _text_fields(line: str) -> dict[str, str]:
    """The fields of a text line, read as the format says: bare, or a JSON string."""
    rest, found = line.partition(HEAD)[2], {}
    while rest:
        key, _, rest = rest.partition("=")
        assert key not in found
        if rest.startswith('"'):
            value, end = json.JSONDecoder().raw_decode(rest)
            rest = rest[end:]
        else:
            value, _, rest = rest.partition(" ")
            rest = " " + rest if rest else ""
        found[key] = value
        rest = rest.removeprefix(" ")
    return found


@pytest.mark.parametrize("character", UNSAFE, ids=ascii)
def test_unsafe_characters_are_escaped_and_json_stays_json(character: str) -> None:
    text = f"/x{character}y"
    line = JsonFormatter().format(_record(text, path=text))
    assert character not in line
    entry = json.loads(line)
    assert (entry["message"], entry["path"]) == (text, text)
    line = TextFormatter().format(_record("request", path=text))
    assert character not in line
    assert _text_fields(line) == {"path": text}
    assert character not in TextFormatter().format(_record(text))


@given(st.text(alphabet=st.characters(exclude_categories=())), st.text())
def test_every_text_makes_one_valid_line(message: str, value: str) -> None:
    for record in (_record(message, path=value), _record("request", path=value, status=200)):
        line = JsonFormatter().format(record)
        assert len(line.splitlines()) == 1
        assert json.loads(line)["path"] == value
        assert len(TextFormatter().format(record).splitlines()) == 1
    assert _text_fields(TextFormatter().format(_record("request", path=value, status=200))) == {
        "path": value,
        "status": "200",
    }


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/v1/models", "/v1/models"),
        ("a,b", "a,b"),
        ("/x status=200", '"/x status=200"'),
        ("a=b", '"a=b"'),
        ('"', r'"\""'),
        ("", '""'),
        ("-", '"-"'),
        (None, "-"),
        ("a\nb\x7f\u202e", r'"a\nb\u007f\u202e"'),
        ("\udc80", r'"\\udc80"'),
        ("é", '"é"'),
        (12.5, "12.5"),
    ],
)
def test_a_value_cannot_pass_for_another_field(value: object, shown: str) -> None:
    assert TextFormatter().format(_record("request", path=value)).endswith(f"{HEAD}path={shown}")


def test_requests_cannot_write_their_own_line(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    server.wait_idle()
    with caplog.at_level(logging.INFO, "powertrain"):
        for target in (b"/x%7f", b"/%0A2026-11-27%20info%20forged%20status=200", b"/%e2%80%ae", b"/" + b"a" * 5000):
            talk(server, get(target, CLOSE, b"x-request-id: a=b,status=200"))
        server.wait_idle()
    records = [record for record in caplog.records if record.name == "powertrain.requests"]
    lines = [json.loads(JsonFormatter().format(record)) for record in records]
    assert [line["path"][:40] for line in lines] == [
        "/x\x7f",
        "/\n2026-11-27 info forged status=200",
        "/\u202e",
        "/" + "a" * 39,
    ]
    assert {line["status"] for line in lines} == {404}
    assert len(lines[-1]["path"]) == 256 + 3
    for record, line in zip(records, lines, strict=True):
        fields = _text_fields(TextFormatter().format(record))
        assert (fields["id"], fields["status"], fields["path"]) == ("a=b,status=200", "404", line["path"])


def test_what_is_refused_below_the_routes_is_logged_too(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "powertrain"):
        talk(server, b"\x16\x03\x01\r\n\r\n")
        talk(server, get(b"/" + b"a" * 9000))
        talk(server, get(b"/v1/models", CLOSE).replace(b"localhost", b"evil.example"))
        server.wait_idle()
    fields: list[dict[str, Any]] = [record.fields for record in caplog.records]  # type: ignore[attr-defined]
    assert [(line["client"], line["status"], line.get("reason", line.get("denied"))) for line in fields] == [
        ("127.0.0.1", 400, "malformed"),
        ("127.0.0.1", 414, "target_too_long"),
        ("127.0.0.1", 403, "host"),
    ]
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_a_warning_of_a_flood_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    log = RareLog(logging.getLogger("powertrain.flood"), every_s=10, clock=lambda: now)
    for _ in range(1000):
        log.warning("all %d are taken", 3)
        log.warning("another")
    now = 10.0
    log.warning("all %d are taken", 4)
    assert [record.getMessage() for record in caplog.records] == ["all 3 are taken", "another", "all 4 are taken"]
    assert caplog.records[-1].fields == {"skipped": 999}  # type: ignore[attr-defined]
