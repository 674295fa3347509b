"""Log-probabilities of prompts: ``echo`` with ``logprobs``, and ``prompt_logprobs``."""

from __future__ import annotations

import math
from typing import Any

import pytest

from api.request.scoring import MAX_SCORES
from tests.api.programs import CONTROL, IM_END, VOCAB_SIZE
from tests.api.scripted_server import NAMES, RunningServer, chunks_of, user
from tests.fakes import CHOSEN_LOGIT

# One token has CHOSEN_LOGIT, the others 0: log-softmax by hand.
NORMALISER = math.log(math.exp(CHOSEN_LOGIT) + VOCAB_SIZE - 1)
CHOSEN, OTHER = CHOSEN_LOGIT - NORMALISER, -NORMALISER
PROMPT = "aaab\n"
# While a raw prompt has no line feed yet, the scripted model expects its end after one token, and then its first again.
IN_PROMPT = [None, OTHER, CHOSEN, OTHER, OTHER]
ANSWER = "aaab"


def complete(server: RunningServer, prompt: Any = PROMPT, **fields: Any) -> dict[str, Any]:
    response = server.post({"prompt": prompt, **fields}, "/v1/completions")
    assert response.status_code == 200, response.text
    return dict(response.json())


def streamed(server: RunningServer, prompt: Any = PROMPT, **fields: Any) -> list[dict[str, Any]]:
    """The choices of a stream put together, as those of a plain answer."""
    response = server.post({"prompt": prompt, "stream": True, **fields}, "/v1/completions")
    assert response.status_code == 200, response.text
    found: dict[int, dict[str, Any]] = {}
    for chunk in chunks_of(response.content):
        for part in chunk["choices"]:
            whole = found.setdefault(part["index"], {**part, "text": "", "logprobs": None, "token_ids": []})
            whole |= {"finish_reason": part["finish_reason"], "stop_reason": part["stop_reason"]}
            whole["text"] += part["text"]
            whole["token_ids"] += part.get("token_ids", [])
            if part["logprobs"] is not None:
                before = whole["logprobs"] or {name: [] for name in part["logprobs"]}
                whole["logprobs"] = {name: before[name] + values for name, values in part["logprobs"].items()}
    return [found[index] for index in sorted(found)]


def near(value: float | None) -> Any:
    return pytest.approx(value, abs=1e-5)


def values(entries: list[float | None]) -> list[Any]:
    return [value if value is None else near(value) for value in entries]


def test_echo_tells_the_prompts_values_and_then_the_answers(server: RunningServer) -> None:
    answer = complete(server, echo=True, logprobs=1, max_tokens=4)
    choice, found = answer["choices"][0], answer["choices"][0]["logprobs"]
    assert choice["text"] == PROMPT + ANSWER
    assert found["tokens"] == list(PROMPT + ANSWER)
    assert found["token_logprobs"] == values(IN_PROMPT + [CHOSEN] * 4)
    assert found["text_offset"] == list(range(9))
    assert found["top_logprobs"][0] is None
    assert found["top_logprobs"][1] == {"<|im_end|>": near(CHOSEN), "a": near(OTHER)}
    assert found["top_logprobs"][2] == {"a": near(CHOSEN)}
    assert answer["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_the_request_of_evaluation_harnesses(server: RunningServer, max_tokens: int) -> None:
    """lm-eval's ``local-completions``: token ids in, sums over the continuation out, the last token left aside."""
    prompts = [list(b"aaab\n"), list(b"aaaa\n"), list(b"ab\n")]
    body = {
        "model": NAMES[0], "prompt": prompts, "temperature": 0, "max_tokens": max_tokens, "logprobs": 1, "seed": 1234,
        "echo": True,
    }  # fmt: skip
    response = server.post(body, "/v1/completions")
    assert response.status_code == 200
    expected = [IN_PROMPT, [None, OTHER, CHOSEN, CHOSEN, OTHER], [None, OTHER, OTHER]]
    choices = sorted(response.json()["choices"], key=lambda choice: choice["index"])
    assert len(choices) == 3
    for choice, known in zip(choices, expected, strict=True):
        found = choice["logprobs"]["token_logprobs"]
        assert found[: len(known)] == values(known)
        assert len(found) == len(known) + max_tokens
        tops = choice["logprobs"]["top_logprobs"]
        greedy = [value == max(top.values()) for value, top in zip(found[1:], tops[1:], strict=True)]
        assert greedy[: len(known) - 1] == [value == CHOSEN for value in known[1:]]
    assert response.json()["usage"]["completion_tokens"] == 3 * max_tokens


def test_scoring_alone_generates_nothing(server: RunningServer) -> None:
    answer = complete(server, echo=True, logprobs=0, max_tokens=0)
    choice = answer["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == (PROMPT, "length", None)
    assert choice["logprobs"]["token_logprobs"] == values(IN_PROMPT)
    assert choice["logprobs"]["top_logprobs"] == [
        None,
        *({token: near(value)} for token, value in zip("aab\n", IN_PROMPT[1:], strict=True)),
    ]
    assert answer["usage"] == {**answer["usage"], "prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5}
    assert complete(server, echo=True, max_tokens=0)["choices"][0]["text"] == PROMPT
    server.wait_idle()


@pytest.mark.parametrize(
    "fields",
    [
        {"logprobs": 2},
        {"logprobs": 0, "n": 2},
        {"logprobs": 1, "max_tokens": 0},
        {},
        {"n": 2, "stream_interval": 3},
        {"logprobs": 1, "stream_interval": 3},
        {"prompt": ["ab\n", "aab\n"], "logprobs": 1, "n": 2, "return_token_ids": True},
        {"prompt": [list(b"\xf0\x9fa\xff\n")], "logprobs": 0},
    ],
)
def test_streams_echo_the_same(server: RunningServer, fields: dict[str, Any]) -> None:
    asked = {"echo": True, "temperature": 0, **fields}
    plain = complete(server, **asked)["choices"]
    assert [choice["text"] for choice in plain] != [""] * len(plain)
    assert streamed(server, **asked) == [{"token_ids": [], **choice} for choice in plain]


def test_an_interval_delays_neither_the_prompt_nor_the_first_token(server: RunningServer) -> None:
    body = {"prompt": PROMPT, "echo": True, "logprobs": 0, "stream": True, "stream_interval": 3}
    chunks = chunks_of(server.post(body, "/v1/completions").content)
    assert [chunk["choices"][0]["text"] for chunk in chunks] == [PROMPT, "a", "aab", ""]


@pytest.mark.parametrize(
    ("prompt", "fields"),
    [
        ("ab<sto\n", {"stop": "<stop>"}),
        ("ab<stop>cd\n", {"stop": "<stop>"}),
        ("a<stay\n", {"stop": ["<stop>", "ay"]}),
        ("#240,159,97,255,226,130,172,98,240,159,257\n", {}),
        ("#97,258,258,98,257\n", {}),
        ("#97,257,258,98,257\n", {"ignore_eos": True, "skip_special_tokens": False, "max_tokens": 6}),
    ],
)
def test_offsets_of_a_stream_are_those_of_a_plain_answer(server: RunningServer, prompt: str, fields: Any) -> None:
    plain = complete(server, prompt, logprobs=1, **fields)["choices"]
    assert [{**choice, "token_ids": []} for choice in plain] == streamed(server, prompt, logprobs=1, **fields)


@pytest.mark.parametrize(
    ("token_ids", "offsets"),
    [
        # F0 9F, a, FF, E2 82 AC, b, F0 9F: an ill-formed part is one character, wherever its bytes stand.
        ([240, 159, 97, 255, 226, 130, 172, 98, 240, 159, 257], [0, 0, 1, 2, 3, 3, 3, 4, 5, 5, 5]),
        ([97, CONTROL, 98, 257], [0, 1, 1, 2]),  # a control token has no text
        ([226, 130, 226, 130, 172, 257], [0, 0, 1, 1, 1, 2]),  # the second character ends the first
    ],
)
def test_offsets_by_hand(server: RunningServer, token_ids: list[int], offsets: list[int]) -> None:
    program = f"#{','.join(map(str, token_ids))}\n"
    choice = complete(server, program, logprobs=0)["choices"][0]
    assert choice["logprobs"]["text_offset"] == offsets
    echoed = complete(server, program, logprobs=0, echo=True)["choices"][0]
    assert echoed["logprobs"]["text_offset"][len(program) :] == [len(program) + offset for offset in offsets]
    as_prompt = complete(server, [*token_ids, 10], echo=True, logprobs=0, max_tokens=0)["choices"][0]
    own_offsets = [*offsets, len(choice["text"]) - (token_ids[-1] == 10)]
    assert as_prompt["logprobs"]["text_offset"][:-1] == own_offsets[:-1]


def test_a_stop_strings_tokens_keep_their_places(server: RunningServer) -> None:
    choice = complete(server, "abcd\n", stop="cd", logprobs=0)["choices"][0]
    assert (choice["text"], choice["logprobs"]["text_offset"]) == ("ab", [0, 1, 2, 3])


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_prompt_logprobs(server: RunningServer, path: str) -> None:
    asked: dict[str, Any] = {"prompt": PROMPT} if path == "/v1/completions" else {"messages": [user("ab")]}
    answer = server.post({**asked, "prompt_logprobs": 1, "max_tokens": 1, "return_token_ids": True}, path).json()
    holder = answer["choices"][0] if path == "/v1/completions" else answer
    entries, ids = holder["prompt_logprobs"], answer["prompt_token_ids"]
    assert len(entries) == len(ids) == answer["usage"]["prompt_tokens"]
    assert entries[0] is None
    assert all(next(iter(entry)) == str(token_id) for entry, token_id in zip(entries[1:], ids[1:], strict=True))
    assert all(any(value["rank"] == 1 for value in entry.values()) for entry in entries[1:])
    if path == "/v1/completions":
        assert entries[2] == {"97": {"logprob": near(CHOSEN), "rank": 1, "decoded_token": "a"}}
        assert entries[3] == {
            "98": {"logprob": near(OTHER), "rank": 2, "decoded_token": "b"},
            "97": {"logprob": near(CHOSEN), "rank": 1, "decoded_token": "a"},
        }


def test_prompt_logprobs_beside_an_echo_have_their_own_number(server: RunningServer) -> None:
    choice = complete(server, echo=True, logprobs=0, prompt_logprobs=3, max_tokens=0)["choices"][0]
    assert [len(entry) for entry in choice["prompt_logprobs"][1:]] == [4, 3, 4, 4]
    assert [len(top) for top in choice["logprobs"]["top_logprobs"][1:]] == [1, 1, 1, 1]
    alone = complete(server, prompt_logprobs=0, max_tokens=0)["choices"][0]
    assert (alone["text"], alone["logprobs"]) == ("", None)
    assert [len(entry) for entry in alone["prompt_logprobs"][1:]] == [1, 1, 1, 1]


def test_each_choice_tells_its_own_ids(server: RunningServer) -> None:
    prompts = ["ab\n", "aab\n"]
    answer = complete(server, prompts, n=2, return_token_ids=True)
    ids = [list(prompt.encode()) for prompt in prompts for _ in range(2)]
    assert [choice["prompt_token_ids"] for choice in answer["choices"]] == ids
    assert [choice["token_ids"] for choice in answer["choices"]] == [[*prompt[:-1], IM_END] for prompt in ids]
    assert "prompt_token_ids" not in answer
    assert complete(server, "ab\n", return_token_ids=True)["prompt_token_ids"] == ids[0]
    chunks = chunks_of(
        server.post({"prompt": prompts, "stream": True, "return_token_ids": True}, "/v1/completions").content
    )
    told = [chunk["choices"][0] for chunk in chunks if "prompt_token_ids" in chunk["choices"][0]]
    assert sorted((choice["index"], choice["prompt_token_ids"]) for choice in told) == [(0, ids[0]), (1, ids[2])]
    assert not any("prompt_token_ids" in chunk for chunk in chunks)


def test_the_drawn_token_is_among_the_likely_ones(server: RunningServer) -> None:
    for num_top in (0, 1, 3):
        found = complete(server, "?\n", logprobs=num_top, max_tokens=8, seed=5)["choices"][0]["logprobs"]
        for token, value, top in zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True):
            assert top[token] == value
            assert len(top) in {max(1, num_top), num_top + 1}


def test_cached_prompts_score_the_same(server: RunningServer) -> None:
    prompt = "ab" * 30 + "\n"
    complete(server, prompt, max_tokens=1)
    first, again = (complete(server, prompt, echo=True, logprobs=2, max_tokens=1)["choices"] for _ in range(2))
    assert first == again
    assert len(first[0]["logprobs"]["token_logprobs"]) == 62


def test_constraints_and_scores(server: RunningServer) -> None:
    choice = complete(server, "?\n", echo=True, logprobs=1, guided_choice=["yes"])["choices"][0]
    assert choice["text"] == "?\nyes"
    assert len(choice["logprobs"]["tokens"]) == 2 + 4


def test_too_many_scores_are_refused(server: RunningServer) -> None:
    body = {"prompt": ["a" * 200] * 16, "n": 8, "prompt_logprobs": 20, "max_tokens": 1}
    assert MAX_SCORES < 200 * 16 * 8 * 21
    response = server.post(body, "/v1/completions")
    assert (response.status_code, response.json()["error"]["param"]) == (400, "prompt_logprobs")
    assert str(MAX_SCORES) in response.json()["error"]["message"]


def test_the_openai_client_scores(server: RunningServer) -> None:
    with server.openai as client:
        answer = client.completions.create(model=NAMES[0], prompt=PROMPT, echo=True, logprobs=1, max_tokens=0)
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.token_logprobs == values(IN_PROMPT)
