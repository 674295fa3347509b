"""What the operator's switches change about answers."""

from __future__ import annotations

import concurrent.futures
import threading

import msgspec
import pytest

from api.error_answer import answer_from
from tests.api.programs import IM_END
from tests.api.scripted_server import RunningServer, chunks_of, running_server, user

RENDER = "/v1/chat/completions/render"


def test_templates_from_requests_when_trusted() -> None:
    with running_server(trust_request_chat_template=True) as server:
        body = {"messages": [user("abc")], "chat_template": "<{{ messages[0].content }}>{{ extra }}"}
        rendered = server.post({**body, "chat_template_kwargs": {"extra": "!"}}, RENDER).json()
        assert rendered["prompt"] == "<abc>!"
        broken = server.post({**body, "chat_template": "{% if %}"})
        assert (broken.status_code, broken.json()["error"]["param"]) == (400, "messages")
        endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"
        assert server.post({**body, "chat_template": endless}).status_code == 400


def test_control_tokens_in_content_when_trusted() -> None:
    with running_server(trust_special_tokens_in_content=True) as server:
        ids = server.post({"messages": [user("a<|im_end|>b")]}, RENDER).json()["prompt_token_ids"]
        assert ids.count(IM_END) == 2
        assert server.post({"prompt": "<|im_end|>"}, "/tokenize").json()["tokens"] == [IM_END]


def test_ids_stats_and_cache_details() -> None:
    with running_server(id_prefix="chatcmpl-", per_request_stats=True) as server:
        answer = server.chat("abc")
        assert answer["id"].startswith("chatcmpl-")
        assert answer["stats"]["llm_input_token_length"] == answer["usage"]["prompt_tokens"]
        assert answer["stats"]["llm_output_token_length"] == 4
        assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
        again = server.chat("abc")["usage"]
        # All but the last two tokens come from the cache: a chunk holds at least two, so that it computes alike.
        assert again["prompt_tokens_details"] == {"cached_tokens": again["prompt_tokens"] - 2}
        assert all("stats" not in chunk for chunk in server.stream("abc"))
    with running_server(prompt_tokens_details=False) as server:
        assert "prompt_tokens_details" not in server.chat("abc")["usage"]


def test_strict_answers_have_what_openais_schema_requires() -> None:
    fields = {"logprobs": True, "max_tokens": 2}
    with running_server(openai_strict_responses=True) as server:
        answer, plain = server.chat("abc", **fields), server.chat("abc")
        chunks = server.stream("abc", stream_options={"include_usage": True}, **fields)
        body = {"prompt": "abc\n", "max_tokens": 2}
        completions = [server.post(body, "/v1/completions").json()]
        completions += chunks_of(server.post({**body, "stream": True}, "/v1/completions").content)
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "ab", "refusal": None}
    assert choice["logprobs"]["refusal"] is None
    assert plain["choices"][0]["logprobs"] is None
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert chunks[1]["choices"][0]["logprobs"]["refusal"] is None
    assert all("refusal" not in chunk["choices"][0]["delta"] for chunk in chunks[1:-1])
    assert len(completions) > 2
    assert {one["system_fingerprint"] for one in (answer, plain, *chunks, *completions)} == {"fp_0123456789"}


def test_nims_answers_are_the_default(server: RunningServer) -> None:
    answer = server.chat("abc", logprobs=True)
    chunks = server.stream("abc", logprobs=True)
    completion = server.post({"prompt": "abc\n"}, "/v1/completions")
    for text in (str(answer), str(chunks), completion.text):
        assert "refusal" not in text
        assert "fingerprint" not in text


def test_served_names() -> None:
    with running_server(served_model_name=("mine", "other")) as server:
        assert server.chat("x")["model"] == "mine"
        assert server.chat("x", model="other")["model"] == "other"


def test_stop_string_cap() -> None:
    with running_server(max_stop_strings=2) as server:
        response = server.post({"messages": [user("x")], "stop": ["a", "b", "c"]})
        assert response.json()["error"]["message"] == "stop: at most 2 stop strings are allowed, got 3"


def test_waiting_too_long_is_429() -> None:
    with running_server(max_queue_time_s=0.3) as server:
        server.gate.open.clear()
        server.gate.reached.clear()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(server.post, {"messages": [user("abc")]}) for _ in range(8)]
            assert server.gate.reached.wait(10)
            server.wait_for(lambda: server.service.engine.num_live >= 8)
            threading.Event().wait(0.32)  # longer than the limit; the engine stands still meanwhile
            server.gate.open.set()
            statuses = [answer.result().status_code for answer in answers]
        assert set(statuses) == {200, 429}


def test_chat_template_arguments(server: RunningServer) -> None:
    for name in ("messages", "tools", "add_generation_prompt"):
        response = server.post({"messages": [user("x")], "chat_template_kwargs": {name: 1}})
        assert response.json()["error"]["param"] == "chat_template_kwargs"


def test_reasoning_effort_reaches_templates_that_know_it() -> None:
    template = "{{ reasoning_effort }}/{{ enable_thinking }}/{{ messages[0].content }}"
    with running_server(template=template) as server:

        def prompt(**fields: object) -> str:
            return str(server.post({"messages": [user("x")], **fields}, RENDER).json()["prompt"])

        assert prompt() == "//x"
        assert prompt(reasoning_effort="none") == "none/False/x"
        assert prompt(reasoning_effort="high") == "high/True/x"
        kwargs = {"enable_thinking": False}
        assert prompt(reasoning_effort="high", chat_template_kwargs=kwargs) == "high/False/x"


PARTS_TEMPLATE = (
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}[{{ part | tojson }}|{{ part.text }}]{% endfor %}{% endif %};{% endfor %}"
)


def test_parts_of_a_text_reach_a_template_that_reads_them_with_all_their_keys() -> None:
    part = {"type": "text", "text": "a", "lang": "<|im_end|>", "foo": {"n": [1, None]}}
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": [part, {"type": "text", "text": "b"}]}]
    with running_server(template=PARTS_TEMPLATE) as server:
        found = server.post({"messages": messages}, RENDER).json()
        keys, text = found["prompt"].removeprefix("s;[").split("|a][")
        assert msgspec.json.decode(keys) == part
        assert text == '{"type": "text", "text": "b"}|b];'
        assert IM_END not in found["prompt_token_ids"]  # a key's value is a client's text like any other
        open_turn = [*messages, {"role": "assistant", "content": [{"type": "text", "text": "c", "x": 1}]}]
        body = {"messages": open_turn, "continue_final_message": True, "add_generation_prompt": False}
        assert server.post(body, RENDER).json()["prompt"].endswith('"x": 1}|c')


def test_what_gets_words_of_tools_is_one_text_also_for_a_template_that_reads_parts() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": parts},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": parts, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": parts},
    ]
    tools = [{"type": "function", "function": {"name": "f"}}]
    with running_server(template=PARTS_TEMPLATE, max_model_len=4096) as server:
        prompt = server.post({"messages": messages, "tools": tools}, RENDER).json()["prompt"]
    system, asked, called, result, _ = prompt.split(";")
    assert system.startswith("a\nb\n\n")
    assert asked == '[{"type": "text", "text": "a"}|a][{"type": "text", "text": "b"}|b]'
    assert called.startswith("a\nb\n")
    assert "a\nb" in result


def test_a_template_that_reads_parts_alone_gets_nothing_else() -> None:
    template = "{% for m in messages %}{% for c in m['content'] %}<{{ c['text'] }}>{% endfor %}{% endfor %}"
    with running_server(template=template) as server:
        messages = [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "b"}]},
        ]
        assert server.post({"messages": messages}, RENDER).json()["prompt"] == "<a><b>"


def test_a_template_that_reads_texts_gets_parts_joined(server: RunningServer) -> None:
    parts = [{"type": "text", "text": "a", "foo": 1}, {"type": "text", "text": "b"}]
    prompt = server.post({"messages": [{"role": "user", "content": parts}]}, RENDER).json()["prompt"]
    assert prompt == "<|im_start|>user\na\nb<|im_end|>\n<|im_start|>assistant\n"


def test_tool_arguments_reach_the_template_as_objects() -> None:
    template = (
        "{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.arguments | tojson }};{% endfor %}{% endfor %}"
    )
    calls = [{"id": str(index), "type": "function", "function": {"name": "f", "arguments": text}}
             for index, text in enumerate(["", '{"a": "é"}', "[1]", "not json"])]  # fmt: skip
    with running_server(template=template) as server:
        messages = [user("x"), {"role": "assistant", "tool_calls": calls}]
        prompt = server.post({"messages": messages}, RENDER).json()["prompt"]
    assert prompt == '{};{"a": "é"};"[1]";"not json";'


@pytest.mark.parametrize("error", [ZeroDivisionError("secret"), KeyError("secret")])
def test_faults_of_ours_tell_nothing_and_are_not_retried(error: Exception) -> None:
    answer = answer_from(error)
    assert (answer.status, answer.message) == (500, "Internal server error")
    assert answer.headers == {"x-should-retry": "false"}
