"""Endpoints that refuse, break off or mean harm: each is one line, nothing of it moves the terminal."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

import chat.wire
from chat.client import ChatClient
from chat.conversation import Conversation
from chat.endpoint import endpoint_from_url
from chat.errors import AnswerError, ChatError
from chat.plain_text import one_line, plain_text
from chat.screen import Screen
from chat.session import Session
from chat.wire import Finish, Piece, data_of_events, error_text, read_stream
from tests.chat.scripted_endpoint import TIMEOUT_S, Reply, ScriptedEndpoint, chunk, events, refused, said
from tests.chat.talking import talk

HOSTILE = "a\x1b]0;owned\x07b\x1b[2Jc\x9b31md\x00e\rf\x7fg\u202eh\tok"
SHOWN = "a␛]0;owned␇b␛[2Jc\ufffd31md␀ef␡g\ufffdh\tok"


@pytest.mark.parametrize("style", [False, True])
def test_no_escape_sequence_of_a_model_reaches_the_terminal(endpoint: ScriptedEndpoint, style: bool) -> None:
    call = {"index": 0, "function": {"name": HOSTILE, "arguments": HOSTILE}}
    endpoint.models = [{"id": HOSTILE}]
    endpoint.replies = [
        Reply(
            events(chunk(content=HOSTILE), chunk(reasoning_content=HOSTILE), chunk(tool_calls=[call]), chunk(HOSTILE))
        ),
        refused(418, HOSTILE),
        Reply(HOSTILE.encode(), 500),
    ]
    shown = talk(endpoint.url, "1", "2", "3", style=style)
    for mine in ("\x1b[2m", "\x1b[0m"):
        shown = shown.replace(mine, "")
    assert not [character for character in shown if ord(character) < 32 and character not in "\t\n"]
    assert "\x9b" not in shown
    assert "\x7f" not in shown
    assert shown.count("␛]0;owned␇") >= 5
    assert shown.startswith(f"{SHOWN}\n[thinking] {SHOWN}\n[tool call] {SHOWN} {SHOWN}\n")


def test_what_was_loaded_is_not_trusted_either(endpoint: ScriptedEndpoint) -> None:
    assert talk(endpoint.url, "/system", conversation=Conversation("", system=HOSTILE)) == f"{SHOWN}\n"


def test_plain_text() -> None:
    assert plain_text(HOSTILE) == SHOWN
    assert plain_text("\ud800 日本語 é\n") == "\ufffd 日本語 é\n"
    assert one_line("a\n b\x1b" + "x" * 300, 10) == "a b␛xxxxx…"


@pytest.mark.parametrize(("style", "on", "off"), [(False, "", ""), (True, "\x1b[2m", "\x1b[0m")])
def test_reasoning_is_shown_apart_and_not_sent_again(
    endpoint: ScriptedEndpoint, style: bool, on: str, off: str
) -> None:
    endpoint.replies = [
        Reply(events(chunk(reasoning="h"), chunk(reasoning_content="m"), chunk(content="yes"), chunk("stop")))
    ]
    told = Conversation("")
    shown = talk(endpoint.url, "/system S", "q", conversation=told, style=style)
    assert shown.startswith(f"{on}system prompt set{off}\n{on}[thinking] hm{off}\n\nyes\n{on}first after ")
    assert told.messages[-1] == {"role": "assistant", "content": "yes"}


def test_calls_of_tools_are_shown_and_taken_back(endpoint: ScriptedEndpoint) -> None:
    def call(**function: str) -> dict[str, Any]:
        return chunk(tool_calls=[{"index": 0, "function": function}])

    endpoint.replies = [
        Reply(events(call(name="f"), call(arguments='{"a"'), call(arguments=":1}"), chunk("tool_calls")))
    ]
    told = Conversation("")
    shown = talk(endpoint.url, "q", conversation=told).splitlines()
    assert shown[:2] == [
        '[tool call] f {"a":1}',
        "the model wants a tool to be called; calls are shown and not answered",
    ]
    assert (told.messages, told.pending) == ([], "q")


@pytest.mark.parametrize(
    ("reply", "line"),
    [
        (refused(429, "too busy", **{"Retry-After": "7"}), "too busy (HTTP 429); /retry asks again, best in 7 s"),
        (refused(503, "loading"), "loading (HTTP 503); /retry asks again, best later"),
        (refused(404, "no such model"), "no such model (HTTP 404)"),
        (Reply(b"<html>\n oops", 502), "<html> oops (HTTP 502)"),
        (Reply(b"", 500), "no reason was given (HTTP 500)"),
        (Reply(events({"error": {"message": "it died"}})), "it died"),
        (Reply(events(done=False)), "the connection ended before the answer did"),
        (Reply(b"data: nothing\n\n"), "the endpoint sent what is no chat answer: JSON is malformed"),
        (
            Reply(b'data: {"x":' + b"[" * 100_000 + b"\n\n"),
            "the endpoint sent what is no chat answer: maximum recursion",
        ),
        (Reply(b'{"x":' + b"[" * 100_000, 500), '{"x":[['),
        (Reply(b"junk", 200, {"Content-Length": "99"}), "the connection broke: "),
    ],
)
def test_a_question_without_an_answer_can_be_asked_again(endpoint: ScriptedEndpoint, reply: Reply, line: str) -> None:
    endpoint.replies = [reply, said("fine")]
    told = Conversation("")
    shown = talk(endpoint.url, "q", "/retry", conversation=told).splitlines()
    assert shown[0].startswith(line)
    assert shown[1] == "fine"
    assert [message["content"] for message in told.messages] == ["q", "fine"]
    assert endpoint.bodies[0]["messages"] == endpoint.bodies[1]["messages"]


def test_ctrl_c_between_two_pieces_ends_the_answer_too(endpoint: ScriptedEndpoint) -> None:
    class Interrupted(io.StringIO):
        def write(self, text: str) -> int:
            if text == "half":
                raise KeyboardInterrupt
            return super().write(text)

    def read() -> str | None:
        if not endpoint.bodies:
            return "q"
        assert endpoint.left.wait(TIMEOUT_S)
        return None

    endpoint.replies = [Reply(events(chunk(content="half"), done=False), hold=True)]
    out, told = Interrupted(), Conversation("m")
    with ChatClient(endpoint_from_url(endpoint.url)) as client:
        session = Session(client, told, Screen(out))
        session.run(read)
    assert out.getvalue() == "stopped\n"
    assert [message["content"] for message in told.messages] == ["q", "half"]  # it may have been seen


def test_what_was_seen_of_a_broken_answer_stays(endpoint: ScriptedEndpoint) -> None:
    endpoint.replies = [Reply(events(chunk(content="half"), done=False)), said("whole", finish="content_filter")]
    told = Conversation("")
    shown = talk(endpoint.url, "q", "/retry", conversation=told).splitlines()
    assert shown[:4] == [
        "half", "the connection ended before the answer did", "whole", "the answer ended with content_filter"
    ]  # fmt: skip
    assert [message["content"] for message in told.messages] == ["q", "whole"]


def test_a_dead_server_is_told(endpoint: ScriptedEndpoint) -> None:
    with pytest.raises(AnswerError, match=r"^nothing answers at http://127\.0\.0\.1:9/v1: "):
        talk("http://127.0.0.1:9")


@pytest.mark.parametrize("url", ["http://exa\x01mple", f"http://{'a' * 70}.x"])
def test_what_is_no_address_is_told(url: str) -> None:
    with pytest.raises(AnswerError, match="is no address: "):
        talk(url)


def test_what_no_request_can_hold_is_told(endpoint: ScriptedEndpoint) -> None:
    assert talk(endpoint.url, "\udcff").startswith("the question, or what goes with it, is not UTF-8")
    for key in ("a\nb", "é"):
        with pytest.raises(ChatError, match="the key holds characters that no key has") as caught:
            talk(endpoint.url, key=key)
        assert key not in str(caught.value)


def test_no_proxy_comes_before_this_machine(endpoint: ScriptedEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    endpoint.replies = [said("near")]
    assert talk(endpoint.url, "q").startswith("near\n")


def test_a_key_that_is_not_given(endpoint: ScriptedEndpoint) -> None:
    endpoint.wanted_key = "k"
    with pytest.raises(AnswerError, match=r"wants a key \(no such key\); give the key with --api-key"):
        talk(endpoint.url, ask_key=lambda: "")
    # It was right at the start and is not any more.
    endpoint.replies = [said("x"), said("late")]
    asked = iter(["k", "new"])

    def ask() -> str:
        given = next(asked)
        endpoint.wanted_key = given
        return given

    talk(endpoint.url, ask_key=ask)
    endpoint.wanted_key = None


def test_the_last_question_and_its_fields_are_what_is_sent(endpoint: ScriptedEndpoint) -> None:
    endpoint.replies = [said("a"), said("b")]
    talk(endpoint.url, '/params stop=["x y", "z"] top_p=0.5 reasoning_effort=low', "q", "/params top_p=", "/clear", "r")
    assert endpoint.bodies == [
        {"model": "made-up", "messages": [{"role": "user", "content": "q"}], "stop": ["x y", "z"], "top_p": 0.5,
         "reasoning_effort": "low", "stream": True, "stream_options": {"include_usage": True}},
        {"model": "made-up", "messages": [{"role": "user", "content": "r"}], "stop": ["x y", "z"],
         "reasoning_effort": "low", "stream": True, "stream_options": {"include_usage": True}},
    ]  # fmt: skip


def test_streams_are_read_in_any_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "é\u2028x"
    body = b": alive\r\n\r\n" + events(chunk(content=text), chunk("stop"))
    expected = [Piece("content", text), Finish("stop")]
    assert list(read_stream(bytes([byte]) for byte in body)) == expected
    assert list(read_stream([body.replace(b"\n", b"\r\n")])) == expected
    assert list(data_of_events([b"data: a\ndata: b\n\n"])) == [b"a\nb"]
    monkeypatch.setattr(chat.wire, "MAX_EVENT_BYTES", 100)
    for blocks in ([b"data: ", *[b"x" * 10] * 10], [b"data: " + b"x" * 60 + b"\n"] * 3):
        with pytest.raises(AnswerError, match="an event of more than 100 bytes"):
            list(data_of_events(blocks))


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "m"}},
        {"message": "m"},
        {"detail": "m"},
        {"error": "m"},
        {"error": {"error": {"message": "m"}}},
    ],
)
def test_error_bodies_of_any_shape(body: object) -> None:
    assert error_text(json.dumps(body).encode()) == "m"
