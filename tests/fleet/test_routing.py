"""Marks of requests, and which replica a conversation gets."""

from __future__ import annotations

import json

import pytest

from fleet.routing.affinity import Affinity, choose, returns_home
from fleet.routing.marks import MOST_MARKS, asked_of

SYSTEM = {"role": "system", "content": "Be brief."}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def marks(*messages: object, domain: str = "", session: str | None = None, **fields: object) -> tuple[bytes, ...]:
    body = json.dumps({"model": "m", "messages": list(messages), **fields}).encode()
    return asked_of(body, domain, session).marks


def test_a_turn_has_the_marks_of_the_one_before() -> None:
    first = marks(SYSTEM, user("a"))
    second = marks(SYSTEM, user("a"), {"role": "assistant", "content": "b"}, user("c"))
    assert len(first) == 1  # the opening that everybody has is nobody's mark
    assert len(second) == 3
    assert second[0] == first[0]
    assert len(set(second)) == 3
    assert len(marks(user("a"), SYSTEM)) == 2  # no opening there
    assert marks(SYSTEM) == ()
    assert marks({"role": "developer", "content": "Be brief."}) == ()
    assert marks({"role": "developer", "content": "x"}, user("a")) != first


@pytest.mark.parametrize(
    "other",
    [
        marks({**SYSTEM, "content": "Be long."}, user("a")),
        marks(SYSTEM, user("b")),
        marks(SYSTEM, user("a"), domain="team"),
        marks(SYSTEM, user("a"), cache_salt="s"),
        marks(SYSTEM, user("a"), tools=[]),
        marks(SYSTEM, user("a"), session="1"),
        marks(SYSTEM, user("a"), model="other"),
        marks(SYSTEM, user("a"), system="s"),
        marks(SYSTEM, user("a"), instructions="i"),
    ],
)
def test_what_is_not_the_same_beginning_shares_no_mark(other: tuple[bytes, ...]) -> None:
    assert not set(other) & set(marks(SYSTEM, user("a")))


def test_fields_after_the_prompt_make_no_difference() -> None:
    assert marks(SYSTEM, user("a"), max_tokens=3, stream=True) == marks(SYSTEM, user("a"))


def test_a_session_is_the_only_mark() -> None:
    assert marks(user("a"), session="1") == marks(user("b"), session="1") != marks(user("a"), session="2")
    assert len(marks(user("a"), user("b"), session="1")) == 1
    assert marks(session="1", domain="team") != marks(session="1")
    assert marks(session="session1") != marks(session="1", domain="session")  # where each begins counts


def test_more_messages_than_the_api_takes_are_not_marked() -> None:
    long = [user(str(number)) for number in range(4096)]
    assert len(marks(*long)) == MOST_MARKS
    assert marks(*long)[:-1] == marks(*long[:-1])[1:]  # the last ones, which the next turn shares
    assert marks(*[user("a")] * 4097) == ()


def test_prompts_without_messages() -> None:
    text = "x" * 2048
    one = asked_of(json.dumps({"prompt": text + "abc"}).encode(), "")
    two = asked_of(json.dumps({"prompt": text + "d"}).encode(), "")
    assert one.model is None
    assert len(one.marks) == 2  # what follows the last whole block is no mark: it grows with the next turn
    assert one.marks == two.marks
    assert len(asked_of(b'{"prompt": "short"}', "").marks) == 1
    turns = [user("a"), user("b")]
    one, two = (asked_of(json.dumps({"input": turns[:most]}).encode(), "") for most in (1, 2))
    assert one.marks == two.marks[:1]
    assert len(two.marks) == 2
    assert {len(mark) for mark in two.marks} == {16}  # bytes, so that no two are alike by chance
    assert asked_of(b'{"input": "a"}', "").marks == asked_of(b'{"prompt": "a"}', "").marks
    assert len(marks(*(user(str(number)) for number in range(MOST_MARKS + 9)))) == MOST_MARKS


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b"\xff", b'{"model": 3}', b'{"messages": [' + b"[" * 5000])
def test_what_is_not_understood_has_no_marks_and_no_model(body: bytes) -> None:
    asked = asked_of(body, "")
    assert (asked.model, asked.marks) == (None, ())


def test_a_conversation_returns_and_leaves_only_a_busy_replica() -> None:
    known: Affinity[str] = Affinity()
    known.note([b"1", b"2"], "a")
    assert choose(known, [b"1", b"2", b"3"], {"a": 3, "b": 0}, busy_at=4) == "a"
    assert choose(known, [b"1", b"2", b"3"], {"a": 4, "b": 3}, busy_at=4) == "b"
    assert choose(known, [b"1", b"2", b"3"], {"a": 4, "b": 4}, busy_at=4) == "a"  # nobody is better off elsewhere
    assert choose(known, [b"9"], {"a": 0, "b": 0}, busy_at=4) == "b"  # the one that holds fewer
    assert choose(known, [b"9"], {"a": 0, "b": 1}, busy_at=4) == "a"
    assert choose(known, [b"1"], {"b": 1}, busy_at=4) == "b"  # its holder is not among them
    assert choose(known, [b"1"], {}, busy_at=4) is None
    assert returns_home(4, 4, 4)
    assert not returns_home(5, 4, 4)


def test_the_longest_known_beginning_counts_and_a_move_takes_the_marks_along() -> None:
    known: Affinity[str] = Affinity()
    known.note([b"1"], "a")
    known.note([b"1", b"2"], "b")
    assert known.holder([b"1", b"2", b"3"]) == "b"
    assert known.holder([b"1", b"4"]) == "b"
    known.note([b"1", b"5"], "c")  # begins alike and went elsewhere
    assert known.holder([b"1", b"2", b"3"]) == "b"
    known.note([b"1", b"2"], "b")
    assert (known.num_held("a"), known.num_held("b")) == (0, 2)
    known.forget("b")
    assert known.holder([b"1", b"2"]) is None
    assert known.num_held("b") == 0


def test_what_is_used_least_recently_is_forgotten() -> None:
    known: Affinity[str] = Affinity(most_noted=2)
    known.note([b"1", b"2"], "a")
    assert known.holder([b"1"]) == "a"
    known.note([b"3"], "b")
    assert known.holder([b"2"]) is None
    assert known.holder([b"1"]) == "a"
    assert (known.num_held("a"), known.num_held("b")) == (1, 1)
