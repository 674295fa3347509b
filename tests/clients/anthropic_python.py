"""Anthropic's library for Python, at /v1/messages."""

from __future__ import annotations

from typing import Any

from anthropic import Anthropic, NotFoundError

from tests.clients.checks import (
    CALL_TOKENS,
    CITY_QUESTION,
    MAX_TOKENS,
    QUESTION,
    UNKNOWN_MODEL,
    WEATHER,
    WEATHER_PARAMETERS,
    Checks,
    ensure,
    ensure_pieces,
    ensure_weather,
)

checks = Checks()
client = Anthropic(base_url=checks.base_url, api_key="not-used", max_retries=0)
tool: Any = {"name": "get_weather", "description": "The weather of a city", "input_schema": WEATHER_PARAMETERS}
question: list[Any] = [{"role": "user", "content": QUESTION}]
asked: list[Any] = [{"role": "user", "content": CITY_QUESTION}]


@checks.check("plain")
def _() -> None:
    answer: Any = client.messages.create(model=checks.model, messages=question, max_tokens=MAX_TOKENS)
    ensure(bool(answer.content[0].text) and answer.usage.output_tokens > 0, answer)


@checks.check("plain", "count_tokens")
def _() -> None:
    ensure(client.messages.count_tokens(model=checks.model, messages=question).input_tokens > 0, "no tokens")


@checks.check("stream")
def _() -> None:
    with client.messages.stream(model=checks.model, messages=question, max_tokens=MAX_TOKENS) as stream:
        ensure_pieces(list(stream.text_stream))


@checks.check("structured", "output_config")
def _() -> None:
    answer: Any = client.messages.create(
        model=checks.model,
        messages=asked,
        max_tokens=MAX_TOKENS,
        output_config={"format": {"type": "json_schema", "schema": WEATHER_PARAMETERS}},
    )
    ensure_weather(answer.content[0].text)


def called(choice: Any) -> Any:
    answer: Any = client.messages.create(
        model=checks.model, messages=asked, max_tokens=CALL_TOKENS, tools=[tool], tool_choice=choice
    )
    ensure(answer.stop_reason == "tool_use" and bool(answer.content), answer)
    for block in answer.content:
        ensure_weather(block.input)
    return answer


@checks.check("tool", "any")
def _() -> None:
    called({"type": "any", "disable_parallel_tool_use": True})


@checks.check("tool", "named")
def _() -> None:
    called({"type": "tool", "name": "get_weather"})


@checks.check("result")
def _() -> None:
    turn = called({"type": "tool", "name": "get_weather"})
    results = [{"type": "tool_result", "tool_use_id": block.id, "content": WEATHER} for block in turn.content]
    answer: Any = client.messages.create(
        model=checks.model,
        messages=[*asked, {"role": "assistant", "content": turn.content}, {"role": "user", "content": results}],
        max_tokens=MAX_TOKENS,
        tools=[tool],
        tool_choice={"type": "none"},
    )
    ensure(bool(answer.content[0].text), answer)


@checks.refusal(NotFoundError)
def _() -> object:
    return client.messages.create(model=UNKNOWN_MODEL, messages=question, max_tokens=MAX_TOKENS)
