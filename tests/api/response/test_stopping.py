"""Contract cases 44 to 57: where an answer ends and what is drawn, on scripted tokens."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.programs import CONTROL, IM_END, PIECE_IDS
from tests.api.scripted_server import RunningServer, content_of, token_counts


def tokens(*parts: str | int) -> str:
    """A program that emits pieces (or ids, or the bytes of other text)."""
    ids: list[int] = []
    for part in parts:
        if isinstance(part, int):
            ids.append(part)
        elif part in PIECE_IDS:
            ids.append(PIECE_IDS[part])
        else:
            ids.extend(part.encode())
    return "#" + ",".join(map(str, ids))


def both(server: RunningServer, program: str, **fields: Any) -> tuple[str, str, Any, int]:
    """Text, finish reason, stop reason and generated tokens; plain and streamed answers must agree on all."""
    plain = server.chat(program, **fields)
    choice = plain["choices"][0]
    found = choice["message"]["content"], choice["finish_reason"], choice["stop_reason"]
    chunks = server.stream(program, stream_options={"include_usage": True}, **fields)
    last = [chunk for chunk in chunks if chunk["choices"]][-1]["choices"][0]
    assert (content_of(chunks), last["finish_reason"], last["stop_reason"]) == found
    assert token_counts(chunks[-1]) == token_counts(plain)
    return (*found, plain["usage"]["completion_tokens"])


def test_case_044_stop_inside_a_token(server: RunningServer) -> None:
    program = tokens("vol", "unteer", " or", "gani", "zation", "x")
    assert both(server, program, stop="gani") == ("volunteer or", "stop", "gani", 4)
    assert both(server, program, stop="ani") == ("volunteer org", "stop", "ani", 4)


def test_case_045_stop_across_tokens(server: RunningServer) -> None:
    assert both(server, "abcdefg", stop="cde") == ("ab", "stop", "cde", 5)


def test_case_045_stop_never_spans_the_prompt(server: RunningServer) -> None:
    # The prompt ends with "assistant\n"; the answer begins with "lo".
    assert both(server, "lo", stop="\nlo")[0] == "lo"
    body = {"messages": [{"role": "user", "content": "xyzlo"}, {"role": "assistant", "content": "hel"}]}
    answer = server.post({**body, "continue_final_message": True, "stop": "hello", "max_tokens": 2}).json()
    assert answer["choices"][0]["message"]["content"] == "lo"
    assert answer["choices"][0]["finish_reason"] == "length"


def test_case_046_earliest_stop_wins(server: RunningServer) -> None:
    assert both(server, "abcdef", stop=["e", "cd"]) == ("ab", "stop", "cd", 4)
    # Both begin at the same place and arrive in one token: the longest is reported.
    assert both(server, tokens("ab", "hello"), stop=["hel", "hell"]) == ("ab", "stop", "hell", 3)


def test_case_046_include_stop_string(server: RunningServer) -> None:
    assert both(server, "abcdef", stop=["cd"], include_stop_str_in_output=True) == ("abcd", "stop", "cd", 4)


def test_case_047_stop_token_ids(server: RunningServer) -> None:
    program = tokens("ab", "stop", "cd")
    assert both(server, program, stop_token_ids=[PIECE_IDS["stop"]]) == ("ab", "stop", PIECE_IDS["stop"], 3)
    kept = both(server, program, stop_token_ids=[PIECE_IDS["stop"]], include_stop_str_in_output=True)
    assert kept == ("abstop", "stop", PIECE_IDS["stop"], 3)


def test_case_047_end_token_that_is_also_asked_for(server: RunningServer) -> None:
    assert both(server, "ab", stop_token_ids=[IM_END]) == ("ab", "stop", IM_END, 3)


def test_case_048_end_token(server: RunningServer) -> None:
    assert both(server, "ab") == ("ab", "stop", None, 3)
    assert both(server, "ab", skip_special_tokens=False) == ("ab", "stop", None, 3)
    ignored = both(server, tokens("ab", IM_END, "cd", IM_END, IM_END), ignore_eos=True, max_tokens=4)
    assert ignored == ("abc", "length", None, 4)


def test_special_tokens_are_shown_when_asked_for(server: RunningServer) -> None:
    program = tokens("a", CONTROL, "b")
    assert both(server, program)[0] == "ab"
    assert both(server, program, skip_special_tokens=False)[0] == "a<|control|>b"


def test_case_049_min_tokens(server: RunningServer) -> None:
    assert both(server, "abcabcab", stop="b", min_tokens=5, max_tokens=8)[:3] == ("abcabca", "stop", "b")
    # The model's own end token is masked until then: the script's second choice is token 0.
    text, reason, _, count = both(server, "ab", min_tokens=4, max_tokens=6, temperature=0)
    assert (text[:2], reason) == ("ab", "stop")
    assert count == 5


def test_case_050_end_token_at_the_last_place(server: RunningServer) -> None:
    assert both(server, "abc", max_tokens=4) == ("abc", "stop", None, 4)
    assert both(server, "abc", max_tokens=3) == ("abc", "length", None, 3)


def test_case_051_one_token(server: RunningServer) -> None:
    assert both(server, "abc", max_tokens=1) == ("a", "length", None, 1)


def test_cut_inside_a_character_ends_with_one_replacement(server: RunningServer) -> None:
    assert both(server, "a😀", max_tokens=3) == ("a\ufffd", "length", None, 3)


def test_case_053_seed(server: RunningServer) -> None:
    fields = {"temperature": 1, "max_tokens": 20}
    first = server.chat("?", seed=1, **fields)["choices"]
    assert server.chat("?", seed=1, **fields)["choices"] == first
    assert server.chat("?", seed=2, **fields)["choices"] != first


def test_case_054_choices_differ(server: RunningServer) -> None:
    answer = server.chat("?", n=3, temperature=1, seed=5, max_tokens=12)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert len({choice["message"]["content"] for choice in answer["choices"]}) == 3
    assert answer["usage"]["completion_tokens"] == 36


def test_case_055_greedy_choices_are_equal(server: RunningServer) -> None:
    answer = server.chat("same", n=2, temperature=0)
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["same", "same"]


def test_more_choices_than_slots(server: RunningServer) -> None:
    answer = server.chat("abc", n=9)
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["abc"] * 9


def test_case_056_logit_bias(server: RunningServer) -> None:
    fields = {"max_tokens": 5, "temperature": 0}
    assert both(server, "?", logit_bias={str(ord("q")): 100}, **fields)[0] == "qqqqq"
    banned = {str(ord(letter)): -100 for letter in "abcdefghijklmnopqrstuvwxy"}
    assert both(server, "?", logit_bias=banned, **fields)[0] == "zzzzz"


def test_allowed_token_ids(server: RunningServer) -> None:
    assert set(both(server, "?", allowed_token_ids=[ord("x"), ord("y")], max_tokens=9, seed=1)[0]) <= {"x", "y"}


def test_bad_words(server: RunningServer) -> None:
    text = both(server, "*ab", bad_words=["b"], max_tokens=6, temperature=0)[0]
    assert "b" not in text


def test_case_057_top_k_one_is_greedy(server: RunningServer) -> None:
    fields = {"temperature": 1, "logit_bias": {str(ord("k")): 1}, "max_tokens": 6}
    assert both(server, "?", top_k=1, **fields)[0] == "kkkkkk"


@pytest.mark.parametrize("seed", range(3))
def test_streams_of_sampled_text_equal_plain_ones(server: RunningServer, seed: int) -> None:
    assert len(both(server, "?", temperature=1, seed=seed, max_tokens=30)[0]) == 30


def test_a_stop_string_that_the_last_incomplete_character_completes(server: RunningServer) -> None:
    text, reason, stop_reason, count = both(server, "#97,241,137", stop="\ufffd", max_tokens=3)
    assert (text, reason, stop_reason, count) == ("a", "stop", "\ufffd", 3)
