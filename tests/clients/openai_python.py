"""OpenAI's library for Python."""

from __future__ import annotations

from typing import Any

from openai import NotFoundError, OpenAI, pydantic_function_tool

from tests.clients.checks import (
    CITY_QUESTION,
    MAX_TOKENS,
    QUESTION,
    UNKNOWN_MODEL,
    WEATHER,
    Checks,
    ensure,
    ensure_pieces,
    ensure_weather,
)
from tests.clients.weather import Weather

checks = Checks()
client: Any = OpenAI(base_url=checks.api_url, api_key="not-used", max_retries=0)
tool: Any = pydantic_function_tool(Weather, name="get_weather")
asked: list[Any] = [{"role": "user", "content": CITY_QUESTION}]
question: list[Any] = [{"role": "user", "content": QUESTION}]


@checks.check("plain", "chat")
def _() -> None:
    answer = client.chat.completions.create(model=checks.model, messages=question, max_tokens=MAX_TOKENS)
    ensure(bool(answer.choices[0].message.content), answer)


@checks.check("plain", "responses")
def _() -> None:
    answer = client.responses.create(model=checks.model, input=QUESTION, max_output_tokens=MAX_TOKENS)
    ensure(bool(answer.output_text), answer)


@checks.check("stream", "chat")
def _() -> None:
    stream = client.chat.completions.create(
        model=checks.model,
        messages=question,
        max_tokens=MAX_TOKENS,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    ensure_pieces([choice.delta.content for chunk in chunks for choice in chunk.choices if choice.delta.content])
    ensure(chunks[-1].usage is not None, chunks[-1])


@checks.check("stream", "chat.completions.stream")
def _() -> None:
    with client.chat.completions.stream(model=checks.model, messages=asked, response_format=Weather) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
        ensure_pieces(pieces)
        ensure(isinstance(stream.get_final_completion().choices[0].message.parsed, Weather), pieces)


@checks.check("structured", "chat.completions.parse")
def _() -> None:
    answer = client.chat.completions.parse(model=checks.model, messages=asked, response_format=Weather)
    ensure(isinstance(answer.choices[0].message.parsed, Weather), answer)


@checks.check("structured", "responses.parse")
def _() -> None:
    answer = client.responses.parse(model=checks.model, input=CITY_QUESTION, text_format=Weather)
    ensure(isinstance(answer.output_parsed, Weather), answer)


def ask_for_call(choice: Any) -> Any:
    answer = client.chat.completions.parse(
        model=checks.model, messages=asked, tools=[tool], tool_choice=choice, parallel_tool_calls=False, temperature=0
    )
    message = answer.choices[0].message
    ensure(bool(message.tool_calls), message)
    for call in message.tool_calls or []:
        ensure_weather(call.function.arguments)
        ensure(isinstance(call.function.parsed_arguments, Weather), call)
    return message


@checks.check("tool", "required")
def _() -> None:
    ask_for_call("required")


@checks.check("tool", "named")
def _() -> None:
    ask_for_call({"type": "function", "function": {"name": "get_weather"}})


@checks.check("result")
def _() -> None:
    message = ask_for_call("required")
    results = [{"role": "tool", "tool_call_id": call.id, "content": WEATHER} for call in message.tool_calls]
    answer = client.chat.completions.create(
        model=checks.model,
        messages=[*asked, message, *results],
        tools=[tool],
        max_tokens=MAX_TOKENS,
        tool_choice="none",
    )
    ensure(bool(answer.choices[0].message.content), answer)


@checks.refusal(NotFoundError)
def _() -> object:
    return client.chat.completions.create(model=UNKNOWN_MODEL, messages=question, max_tokens=MAX_TOKENS)
