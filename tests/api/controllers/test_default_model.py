"""Contract cases 52 to 54 and the README's request, on the built default model."""

from __future__ import annotations

import concurrent.futures
import json
import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from api.process.launch import bind, build_service
from api.process.server import Server
from api.server_settings import Settings
from runtime.package.manifest import Package

pytestmark = pytest.mark.model
QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def client(default_package: Package) -> Iterator[openai.OpenAI]:
    settings = Settings(port=0, num_slots=16, max_model_len=512)
    service = build_service(settings, default_package)
    sock = bind(settings.host, 0)
    server = Server(service)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{sock.getsockname()[1]}/v1"
    with openai.OpenAI(base_url=url, api_key="not-used", max_retries=8) as made:
        yield made
    server.should_exit = True
    thread.join(timeout=30)
    sock.close()
    assert not thread.is_alive()


def answer(client: openai.OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(
        model=fields.pop("model", ""), messages=fields.pop("messages", QUESTION), max_tokens=24, **fields
    )


def texts(completion: Any) -> list[str]:
    return [choice.message.content for choice in completion.choices]


def test_the_readme_s_request(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(
        model="huggingfacetb/smollm2-135m-instruct",
        messages=[
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "Who won the world series in 2020?"},
        ],
        top_p=1,
        n=1,
        max_tokens=50,
        stream=False,
        frequency_penalty=1.0,
        stop=["hello"],
    )
    assert completion.choices[0].message.content
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == 32
    assert completion.usage.total_tokens == 32 + completion.usage.completion_tokens


def test_case_052_greedy_is_repeatable(client: openai.OpenAI) -> None:
    first = answer(client, temperature=0)
    assert "Paris" in texts(first)[0]
    assert texts(answer(client, temperature=0)) == texts(first)


def test_case_053_seed_alone_and_in_a_crowd(client: openai.OpenAI) -> None:
    alone = texts(answer(client, temperature=1, seed=7))
    assert texts(answer(client, temperature=1, seed=8)) != alone
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        crowd = [pool.submit(answer, client, temperature=1) for _ in range(8)]
        assert texts(answer(client, temperature=1, seed=7)) == alone
        for other in crowd:
            other.result()


def test_case_054_choices_differ(client: openai.OpenAI) -> None:
    completion = answer(client, temperature=1, n=3, seed=1)
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    assert len(set(texts(completion))) > 1


def test_stream_equals_plain_with_logprobs(client: openai.OpenAI) -> None:
    plain = answer(client, temperature=0, logprobs=True, top_logprobs=3, stop=["Franc"])
    chunks = list(answer(client, temperature=0, logprobs=True, top_logprobs=3, stop=["Franc"], stream=True))
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == texts(plain)[0]
    entries = [entry for choice in choices if choice.logprobs for entry in choice.logprobs.content or []]
    assert entries == plain.choices[0].logprobs.content
    assert choices[-1].finish_reason == plain.choices[0].finish_reason


def test_logprobs_are_normalised(client: openai.OpenAI) -> None:
    completion = answer(client, temperature=0, logprobs=True, top_logprobs=20)
    for entry in completion.choices[0].logprobs.content:
        values = [top.logprob for top in entry.top_logprobs]
        assert values == sorted(values, reverse=True)
        assert len(values) == 20
        assert entry.logprob == values[0] <= 0


def test_demands_and_forced_calls_hold_on_the_real_vocabulary(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 30}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    wished: Any = {"type": "json_schema", "json_schema": {"name": "pet", "schema": schema}}
    for choice in answer(client, n=4, seed=3, response_format=wished).choices:
        assert choice.finish_reason == "stop"
        pet = json.loads(choice.message.content)
        assert (set(pet), type(pet["name"]), type(pet["age"])) == ({"name", "age"}, str, int)
    tools: Any = [{"type": "function", "function": {"name": "now"}}]
    forced = answer(client, tools=tools, tool_choice={"type": "function", "function": {"name": "now"}}).choices[0]
    assert [(call.function.name, call.function.arguments) for call in forced.message.tool_calls] == [("now", "{}")]
    assert (forced.message.content, forced.finish_reason) == ("", "stop")
