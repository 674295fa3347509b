"""Who may share cached prefixes: a hit is seen in the time to the first token, so it tells what others asked before.

Repeats the cause of vLLM's CVE-2025-46570 (a prefix cache shared by all clients leaks prompts by timing) and of
CVE-2025-25183 (an entry found by its hash alone serves another prompt's rows).
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.server_settings import Settings
from runtime.engine.config import EngineConfig
from runtime.engine.prefix_index import PrefixIndex
from runtime.engine.token_prefix import TokenPrefix
from runtime.request import Request
from runtime.text.known_pieces import KnownPieces
from tests.api.scripted_server import RunningServer, running_server, user
from tests.runtime.engine_driver import Driver, adding_reply, request

PROMPT = list(range(1, 61))
LONG = "tell me the secret number of this long message, please"
KEYS = ("first-key", "second-key")


def salted(name: str, prompt: list[int], salt: str, **options: Any) -> Request:
    plain = request(name, prompt, **options)
    fields = {field: getattr(plain, field) for field in plain.__dataclass_fields__}
    return Request(**{**fields, "cache_salt": salt})


def computed_tokens(driver: Driver, asked: Request) -> int:
    """Tokens that the session computes for a request's prompt."""
    before = len(driver.session.calls)
    driver.add(asked)
    driver.run()
    calls = driver.session.calls[before:]
    assert driver.finishes[asked.request_id, 0].num_generated == asked.sampling.max_tokens
    return sum(len(call.tokens) for call in calls if call.kind == "prefill")


def test_only_the_same_salt_saves_computing() -> None:
    driver = Driver(num_slots=8)
    asked = ["", "a", "a", "", "b", "b:", "a"]
    computed = [computed_tokens(driver, salted(f"r{i}", PROMPT, salt)) for i, salt in enumerate(asked)]
    assert computed == [60, 60, 2, 2, 60, 60, 2]
    assert all(driver.tokens[f"r{i}", 0] == adding_reply(PROMPT, 8) for i in range(len(asked)))


def test_the_warm_up_prompt_is_shared_by_requests_without_a_salt_only() -> None:
    driver = Driver(num_slots=4, config=EngineConfig(warm_up_ids=tuple(PROMPT)))
    driver.engine.warm_up()
    assert computed_tokens(driver, salted("mine", PROMPT, "mine")) == 60
    assert computed_tokens(driver, salted("public", PROMPT, "")) == 2


def test_a_running_request_offers_its_prompt_to_its_salt_only() -> None:
    driver = Driver(num_slots=4)
    driver.add(salted("first", PROMPT, "a", max_tokens=60))
    driver.step()
    driver.step()
    driver.add(salted("same", PROMPT, "a"), salted("other", PROMPT, "b"))
    driver.run()
    cached = {name: driver.finishes[name, 0].num_cached_tokens for name in ("same", "other")}
    assert cached == {"same": 58, "other": 0}


def test_rows_keep_their_salt_when_they_move_to_another_slot() -> None:
    driver = Driver(num_slots=4)
    driver.add(request("low", [1, 2], max_tokens=30), salted("middle", PROMPT, "a", max_tokens=3))
    driver.add(request("high", [5, 6], max_tokens=30))
    driver.run()
    assert [call.slots for call in driver.session.calls if call.kind == "copy"] == [(1, 3), (0, 1)]
    assert computed_tokens(driver, salted("same", [*PROMPT, 8], "a")) == 2
    assert computed_tokens(driver, salted("other", [*PROMPT, 7], "b")) == 61


def test_drafts_come_from_the_request_itself() -> None:
    config = EngineConfig(max_draft_tokens=4)
    alone, after = Driver(config=config), Driver(config=config)
    after.add(salted("before", PROMPT, "a", max_tokens=40))
    after.run()
    drafted_before = after.engine.stats().drafted_tokens
    for driver in (alone, after):
        driver.add(salted("mine", [1, 2, 3, 4, 1, 2, 3], "b", max_tokens=40))
        driver.run()
    assert after.engine.stats().drafted_tokens - drafted_before == alone.engine.stats().drafted_tokens
    assert after.tokens["mine", 0] == alone.tokens["mine", 0]


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["", "a", "b"]), st.integers(16, 40)), max_size=12))
def test_the_index_never_names_a_slot_of_another_salt(puts: list[tuple[int, str, int]]) -> None:
    index = PrefixIndex()
    held: dict[int, tuple[str, int]] = {}
    for slot, salt, length in puts:
        index.put(slot, TokenPrefix(range(length), length, salt))
        held[slot] = salt, length
    for salt in ("", "a", "b", "c"):
        mine = {slot: length for slot, (other, length) in held.items() if other == salt}
        best = max(mine.values(), default=0)
        assert index.longest(TokenPrefix(range(50), 50, salt)) == [
            (slot, best) for slot in sorted(mine) if mine[slot] == best
        ]


def test_no_hash_of_a_text_decides_what_is_shared() -> None:
    """Python's hashes of numbers are known, so texts of equal hashes can be made: -1 and -2 hash alike."""
    index = PrefixIndex()
    index.put(0, TokenPrefix([-1] * 40, 40))
    assert index.longest(TokenPrefix([-2] * 40, 40)) == []
    assert index.longest(TokenPrefix([-1] * 20 + [-2] * 20, 40)) == [(0, 20)]


def test_one_text_under_two_salts_is_two_entries() -> None:
    index = PrefixIndex()
    index.put(0, TokenPrefix(PROMPT, len(PROMPT), "a"))
    index.put(1, TokenPrefix(PROMPT, 40, "b"))
    assert index.longest(TokenPrefix(PROMPT, len(PROMPT), "b")) == [(1, 40)]
    assert index.longest(TokenPrefix(PROMPT, len(PROMPT), "c")) == []


def cached_tokens(server: RunningServer, path: str = "chat", key: str = "", **fields: Any) -> int:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    target, body = ("/v1/chat/completions", {"messages": [user(LONG)]})
    if path == "completions":
        target, body = ("/v1/completions", {"prompt": LONG})  # type: ignore[dict-item]
    response = server.post({**body, "max_tokens": 2, **fields}, target, headers=headers)
    assert response.status_code == 200, response.text
    server.wait_idle()
    return int(response.json()["usage"]["prompt_tokens_details"]["cached_tokens"])


@pytest.mark.parametrize("path", ["chat", "completions"])
def test_cache_salt_separates_over_http(path: str) -> None:
    with running_server() as server:
        salts: list[dict[str, Any]] = [{}, {}, {"cache_salt": "x"}, {"cache_salt": "x"}, {"cache_salt": "None"}, {}]
        hits = [cached_tokens(server, path, **fields) > 0 for fields in salts]
    assert hits == [False, True, False, True, False, True]


def test_without_a_required_salt_nobody_shares() -> None:
    with running_server(prefix_cache_salt="required") as server:
        salts: list[dict[str, Any]] = [{}, {}, {"cache_salt": "x"}, {"cache_salt": "x"}, {}, {"cache_salt": "x"}]
        assert [cached_tokens(server, **fields) > 0 for fields in salts] == [False, False, False, True, False, True]
    with running_server(prefix_cache_salt="required", share_prefix_cache=True, api_key=KEYS) as server:
        assert [cached_tokens(server, key=KEYS[which]) for which in (0, 0, 1)] == [0, 0, 0]
        assert [cached_tokens(server, key=KEYS[which], cache_salt="x") > 0 for which in (0, 1)] == [False, True]


def test_keys_are_separate_unless_the_operator_lets_them_share() -> None:
    with running_server(api_key=KEYS) as server:
        hits = [cached_tokens(server, key=KEYS[which]) > 0 for which in (0, 1, 0, 1)]
        assert hits == [False, False, True, True]
        assert cached_tokens(server, key=KEYS[0], cache_salt="x") == 0
        assert cached_tokens(server, key=KEYS[0], cache_salt="None") == 0
        assert cached_tokens(server, key=KEYS[1], cache_salt="x") == 0
    with running_server(api_key=KEYS, share_prefix_cache=True) as server:
        assert [cached_tokens(server, key=KEYS[which]) > 0 for which in (0, 1)] == [False, True]
        assert cached_tokens(server, key=KEYS[1], cache_salt="x") == 0
    assert Settings().share_prefix_cache is False


@pytest.mark.parametrize("path", ["/v1/chat/completions/render", "/tokenize", "/v1/messages/count_tokens"])
def test_a_tokenized_message_spares_time_to_its_own_key_and_salt_alone(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How long tokenizing took can be seen in the time to the first token, as a hit of the cache can."""
    hits: list[bool] = []
    find = KnownPieces.find

    def noted(known: KnownPieces, owner: str, piece: str) -> Any:
        ids = find(known, owner, piece)
        hits.append(ids is not None)
        return ids

    monkeypatch.setattr(KnownPieces, "find", noted)
    body = {"messages": [user(LONG * 6)], "max_tokens": 1}
    with running_server(api_key=KEYS, max_model_len=1024) as server:

        def ask(which: int, **fields: Any) -> None:
            response = server.post({**body, **fields}, path, headers={"authorization": f"Bearer {KEYS[which]}"})
            assert response.status_code == 200, response.text

        for which in (0, 1, 0, 1):
            ask(which)
        ask(0, cache_salt="x")
        ask(0, cache_salt="x")
    assert hits == [False, False, True, True, False, True]


def test_an_authorization_header_that_nobody_asked_for_separates_nothing() -> None:
    with running_server() as server:
        assert [cached_tokens(server, key=key) > 0 for key in ("one", "two")] == [False, True]


@pytest.mark.parametrize(
    ("salt", "words"),
    [("", ">= 1"), ("x" * 257, "<= 256"), (5, "a string"), (["x"], "a string")],
    ids=["", "257", "5", "[]"],
)
def test_a_salt_that_is_no_short_text_is_refused(server: RunningServer, salt: object, words: str) -> None:
    response = server.post({"messages": [user("ok")], "cache_salt": salt})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "cache_salt")
    assert words in error["message"]
    assert len(error["message"]) < 300
