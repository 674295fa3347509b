"""Contract cases 73 to 75: one entry per generated token, in plain answers and streams alike."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.api.programs import IM_END, VOCAB_SIZE
from tests.api.scripted_server import RunningServer
from tests.fakes import CHOSEN_LOGIT

# One token has CHOSEN_LOGIT, the others 0: log-softmax by hand.
NORMALISER = math.log(math.exp(CHOSEN_LOGIT) + VOCAB_SIZE - 1)
CHOSEN, OTHER = CHOSEN_LOGIT - NORMALISER, -NORMALISER


def plain_entries(server: RunningServer, program: str, **fields: Any) -> list[dict[str, Any]]:
    choice = server.chat(program, logprobs=True, **fields)["choices"][0]
    return list(choice["logprobs"]["content"])


def stream_entries(server: RunningServer, program: str, **fields: Any) -> list[dict[str, Any]]:
    chunks = server.stream(program, logprobs=True, **fields)
    assert chunks[0]["choices"][0]["logprobs"] is None
    found = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    return [entry for logprobs in found if logprobs for entry in logprobs["content"]]


def test_case_073_one_entry_per_token(server: RunningServer) -> None:
    entries = plain_entries(server, "ab")
    assert [(entry["token"], entry["bytes"], entry["top_logprobs"]) for entry in entries] == [
        ("a", [97], []),
        ("b", [98], []),
        ("<|im_end|>", list(b"<|im_end|>"), []),
    ]
    assert [entry["logprob"] for entry in entries] == pytest.approx([CHOSEN] * 3, abs=1e-5)


def test_case_073_top_logprobs(server: RunningServer) -> None:
    for entry in plain_entries(server, "a", top_logprobs=5):
        values = [top["logprob"] for top in entry["top_logprobs"]]
        assert values == pytest.approx([CHOSEN, *[OTHER] * 4], abs=1e-5)
        assert entry["top_logprobs"][0]["token"] == entry["token"]


def test_case_074_masked_values_are_finite(server: RunningServer) -> None:
    entries = plain_entries(server, "?", allowed_token_ids=[97], max_tokens=3, top_logprobs=20)
    assert all(-9999 <= top["logprob"] <= 0 for entry in entries for top in entry["top_logprobs"])


@pytest.mark.parametrize(
    ("program", "fields"),
    [
        ("a😀b", {}),
        ("ab<stop>cd", {"stop": "<stop>"}),
        ("ab<sto", {"stop": "<stop>"}),
        ("a<stay", {"stop": ["<stop>"]}),
        ("#97,240,159,257", {}),
        ("abcdefg", {"stream_interval": 3}),
    ],
)
def test_case_075_stream_equals_plain(server: RunningServer, program: str, fields: dict[str, Any]) -> None:
    plain = plain_entries(server, program, top_logprobs=2, temperature=0, **{**fields, "stream_interval": None})
    assert stream_entries(server, program, top_logprobs=2, temperature=0, **fields) == plain


def test_case_075_held_tokens_travel_with_the_text_that_releases_them(server: RunningServer) -> None:
    chunks = server.stream("a😀", logprobs=True)
    sizes = [len(chunk["choices"][0]["logprobs"]["content"]) for chunk in chunks[1:]]
    assert sizes == [1, 4, 1]


def test_case_075_bytes_are_the_content(server: RunningServer) -> None:
    text = "a😀 שלום"
    entries = plain_entries(server, text)
    joined = b"".join(bytes(entry["bytes"]) for entry in entries[:-1])
    assert joined.decode() == text
    assert entries[2]["token"] == "\ufffd"


def test_a_stop_string_keeps_its_tokens_entries(server: RunningServer) -> None:
    answer = server.chat("abcd", stop="cd", logprobs=True)
    assert len(answer["choices"][0]["logprobs"]["content"]) == answer["usage"]["completion_tokens"] == 4


def test_tokens_as_ids(server: RunningServer) -> None:
    entries = plain_entries(server, "a", top_logprobs=1, return_tokens_as_token_ids=True)
    assert [entry["token"] for entry in entries] == ["token_id:97", f"token_id:{IM_END}"]
    assert entries[0]["top_logprobs"][0]["token"] == "token_id:97"
