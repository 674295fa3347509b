"""The table says what happened: a tick for checks that all passed, a cross for one that did not, a dash for none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.clients.catalogue import CLIENTS, NODE, REQUIREMENTS, SCRIPTS, Client
from tests.clients.checks import UNKNOWN_MODEL, Checks, Failed, ensure, ensure_pieces, ensure_weather
from tests.clients.results import DOCUMENT, Note, Outcome, read_notes

CLIENT = Client("openai, Python", "openai_python", "openai", "openai", "chat", "a remark")


def test_a_column_with_one_failure_has_a_cross_and_its_reason() -> None:
    notes = (Note("plain", "", ""), Note("tool", "required", ""), Note("tool", "named", "no|call\nat all"))
    cells = Outcome(CLIENT, notes).row().strip("| ").split(" | ")
    assert cells == [
        *("openai, Python", CLIENT.version(), "chat", "✓", "–", "–", "✗", "–", "–", "–"),
        "a remark; named: no/call at all",
    ]


def test_a_client_that_is_not_installable_says_so_and_has_no_ticks() -> None:
    row = Outcome(CLIENT, (), "not installable here (no such package)").row()
    assert "✓" not in row
    assert row.endswith("| not run: not installable here (no such package) |")


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.script)
def test_each_client_has_a_script_a_pinned_version_and_a_row(client: Client) -> None:
    assert (SCRIPTS / f"{client.script}.{'mjs' if client.environment == NODE else 'py'}").is_file()
    row = f"| {client.title} | {client.version()} | {client.tried} | "
    assert row in DOCUMENT.read_text(encoding="utf-8"), "run make test-clients"


def test_every_requirement_is_pinned_and_used() -> None:
    assert {file.stem for file in REQUIREMENTS.iterdir()} == {client.environment for client in CLIENTS}
    for file in REQUIREMENTS.glob("*.txt"):
        assert all("==" in line for line in file.read_text(encoding="utf-8").splitlines())


def test_a_check_notes_what_its_client_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "notes"
    monkeypatch.setattr(sys, "argv", ["script", "http://127.0.0.1:1", "a-model", str(file)])
    checks = Checks()
    empty: dict[str, str] = {}
    checks.check("plain")(lambda: ensure(True, "fine"))
    checks.check("plain", "second")(lambda: ensure(False, "an empty answer"))
    checks.refusal(LookupError, "own")(lambda: empty[UNKNOWN_MODEL])
    checks.refusal(LookupError, "other")(lambda: int(UNKNOWN_MODEL))
    checks.refusal(LookupError, "nameless")(lambda: empty["x"])
    checks.refusal(LookupError, "none")(lambda: "an answer")
    passed = {note.what: not note.failure for note in read_notes(file)}
    assert passed == {"": True, "second": False, "own": True, "other": False, "nameless": False, "none": False}
    assert "an empty answer" in read_notes(file)[1].failure


@pytest.mark.parametrize(
    "arguments",
    ['{"city":"Paris"}', '{"city":"Rome","unit":"C"}', '{"city":"Nice","unit":"K"}', "[]", {"city": "Nice", "unit": 1}],
)
def test_arguments_that_break_the_schema_are_seen(arguments: object) -> None:
    with pytest.raises(Failed):
        ensure_weather(arguments)


def test_more_keys_are_allowed_only_where_the_client_sent_an_open_schema() -> None:
    more = {"city": "Nice", "unit": "C", "day": "today"}
    ensure_weather(more, closed=False)
    with pytest.raises(Failed):
        ensure_weather(more)


@pytest.mark.parametrize("pieces", [[], ["all at once"], [" ", "\n"]])
def test_a_stream_of_one_piece_or_of_blanks_is_none(pieces: list[str]) -> None:
    with pytest.raises(Failed):
        ensure_pieces(pieces)
