"""What the words that begin with a slash do, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from chat.conversation import Conversation
from chat.editor import _completer, is_open_block, without_block
from chat.endpoint import Endpoint, endpoint_from_url
from chat.errors import ChatError
from chat.slash import Next, run_slash, slash_words

EVENT = CompleteEvent()
MESSAGES = [
    {"role": "user", "content": "one\ntwo"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": "three"},
    {"role": "assistant", "content": "3"},
]


@pytest.fixture
def told() -> Conversation:
    return Conversation("m", messages=[dict(message) for message in MESSAGES])


def test_undo_and_clear(told: Conversation) -> None:
    told.system = "S"
    assert run_slash("/retry", told) == (Next.RETRY, "")
    assert (told.messages, told.pending) == (MESSAGES[:2], "three")
    told.messages, told.pending = [dict(message) for message in MESSAGES], None
    assert run_slash("/undo", told) == (Next.READ, "forgotten: three")
    assert run_slash("/undo", told) == (Next.READ, "forgotten: one")
    assert run_slash("/undo", told) == (Next.READ, "there is nothing to undo")
    told.messages = [dict(message) for message in MESSAGES]
    run_slash("/clear", told)
    assert (told.messages, told.system) == ([], "S")
    assert run_slash("/retry", told) == (Next.READ, "there is nothing to ask again")


def test_system(told: Conversation) -> None:
    assert run_slash("/system", told)[1] == "no system prompt; /system TEXT sets one"
    run_slash("/system Be kind.", told)
    assert told.saved()["messages"][0] == {"role": "system", "content": "Be kind."}
    assert run_slash("/system", told)[1] == "Be kind."
    run_slash("/system off", told)
    assert told.saved()["messages"] == MESSAGES


def test_help_names_every_word(told: Conversation) -> None:
    text = run_slash("/help", told)[1]
    assert all(word in text for word in slash_words())
    assert len(slash_words()) == 10


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/sistem x", "there is no /sistem. Did you mean '/system'? /help lists what there is"),
        ("/params 7", "'7' is no parameter; write name=value, such as temperature=0.2"),
        ("/params a=1 messages=[]", "messages cannot be set here; it is the conversation's own"),
        ("/params n=2", "n cannot be set here"),
        ("/json {", "the schema is not valid JSON"),
        ("/json /nowhere/s.json", "/nowhere/s.json cannot be read: No such file or directory"),
        ("/save", "/save needs a file's name"),
        ("/save /nowhere/f.json", "/nowhere/f.json cannot be written: No such file or directory"),
        ("/load /nowhere/f.json", "/nowhere/f.json cannot be read: No such file or directory"),
    ],
)
def test_what_is_wrong_is_said_and_changes_nothing(told: Conversation, line: str, message: str) -> None:
    before = told.saved()
    with pytest.raises(ChatError) as caught:
        run_slash(line, told)
    assert str(caught.value).startswith(message)
    assert told.saved() == before


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"messages":{}}', '{"messages":[1]}', '{"messages":[{"role":"user"}]}', '{"a":1}']
)
def test_what_is_no_conversation_is_neither_loaded_nor_overwritten(
    told: Conversation, tmp_path: Path, content: str
) -> None:
    file = tmp_path / "notes.json"
    file.write_text(content)
    before = told.saved()
    with pytest.raises(ChatError):
        run_slash(f"/load {file}", told)
    assert told.saved() == before
    if "messages" not in content or content == '{"messages":{}}':
        with pytest.raises(ChatError, match="exists and is no conversation; name another file"):
            run_slash(f"/save {file}", told)
        assert file.read_text() == content


def test_saving_twice_and_loading_an_open_question(told: Conversation, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    run_slash(f"/save {file}", told)
    run_slash("/undo", told)
    run_slash(f"/save {file}", told)
    assert json.loads(file.read_text())["messages"] == MESSAGES[:2]
    assert [path.name for path in tmp_path.iterdir()] == ["talk.json"]
    file.write_text(json.dumps({"messages": [{"role": "system", "content": "S"}, *MESSAGES[:1]], "stream": True}))
    run_slash(f"/load {file}", told)
    assert (told.model, told.system, told.messages, told.params) == ("m", "S", [], {})
    assert run_slash("/retry", told) == (Next.RETRY, "")
    assert told.pending == "one\ntwo"


def test_texts_of_several_lines() -> None:
    assert is_open_block('"""a\nb')
    assert is_open_block('"""')
    assert not is_open_block('"""a"""')
    assert not is_open_block('a """')
    assert without_block('"""\na\nb\n"""') == "a\nb"
    assert without_block('say """x"""') == 'say """x"""'


def test_a_tab_completes_commands_at_the_beginning_only() -> None:
    completer = _completer(slash_words())

    def completed(text: str) -> list[str]:
        return [item.text for item in completer.get_completions(Document(text), EVENT)]

    assert completed("/s") == ["/system", "/save"]
    assert completed("/re") == ["/retry"]
    assert completed("a /s") == completed("/system x") == completed("") == []
    assert [item.start_position for item in completer.get_completions(Document("/re"), EVENT)] == [-3]


def test_addresses() -> None:
    for written, url in {
        "http://h:1": "http://h:1/v1",
        "https://h/v1/chat/completions": "https://h/v1",
        "http://[::1]:8/openai/v1/": "http://[::1]:8/openai/v1",
    }.items():
        assert endpoint_from_url(written, "k") == Endpoint(url, "k")
    for bad in (
        "ftp://h",
        "http://",
        "http://h:99999",
        "http://me:secret@h",
        "http://h?key=secret",
        "http://me:secret@[h",
    ):
        with pytest.raises(ChatError) as caught:
            endpoint_from_url(bad)
        assert "secret" not in str(caught.value)
    assert [Endpoint(url).is_private for url in ("http://h/v1", "https://h/v1", "http://localhost:1/v1")] == [
        False, True, True
    ]  # fmt: skip
    assert [Endpoint(url).is_local for url in ("http://127.0.0.5/v1", "https://h/v1", "http://[::1]/v1")] == [
        True, False, True
    ]  # fmt: skip
    assert "secret" not in repr(Endpoint("http://h", "secret"))
